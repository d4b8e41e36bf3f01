"""What became of every part of a model that was brought over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

_ATTRIBUTE = "_tfcompress_transfer"


@dataclass(frozen=True)
class TransferRow:
    """One part of a model.

    Args:
        layer: Name of the layer.
        part: What it is about, such as `"pruning mask"` or `"range of the output"`.
        carried: Whether the rebuilt model has it.
        note: What it became, or why it could not be carried.
    """

    layer: str
    part: str
    carried: bool
    note: str = ""


@dataclass
class Transfer:
    """What `from_tf_keras` carried over, and what it could not.

    Args:
        rows: One entry for every part that is more than a layer with its weights.
        error: Largest difference of the outputs on random inputs, relative to their size; None
            where the two models compute different things on purpose (fake quantization).

    Example:

    ```python
    model = tfcompress.from_tf_keras(legacy)
    print(tfcompress.interop.find_transfer(model))
    ```
    """

    rows: list[TransferRow] = field(default_factory=list)
    error: float | None = None

    def add(self, layer: str, part: str, carried: bool, note: str = "") -> None:
        """Note one part."""
        self.rows.append(TransferRow(layer, part, carried, note))

    @property
    def lost(self) -> list[TransferRow]:
        """What could not be carried."""
        return [row for row in self.rows if not row.carried]

    def __iter__(self) -> Iterator[TransferRow]:
        return iter(self.rows)

    def __str__(self) -> str:
        lines = [
            f"{'carried' if row.carried else 'lost':<8} {row.layer}: {row.part}"
            + (f" ({row.note})" if row.note else "")
            for row in self.rows
        ]
        if self.error is not None:
            lines.append(f"outputs differ by {self.error:.1e} of their size on random inputs")
        return "\n".join(lines)


def find_transfer(model: keras.Model) -> Transfer | None:
    """What became of the parts of the model that `model` was made from.

    Args:
        model: A model that `from_tf_keras` returned.

    Returns:
        The record, or None for any other model.
    """
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Transfer) else None


def attach_transfer(model: keras.Model, transfer: Transfer) -> None:
    """Hang the record on a model."""
    # Around Keras' attribute tracking, which would save it with the model.
    object.__setattr__(model, _ATTRIBUTE, transfer)


def describe_kind(value: Any) -> str:
    """Class of an object with its module, for messages."""
    return f"{type(value).__module__}.{type(value).__name__}"

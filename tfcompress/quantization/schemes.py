"""Quantization schemes: how many bits, for what."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import keras


@keras.saving.register_keras_serializable("tfcompress")
@dataclass(frozen=True)
class Scheme:
    """Bit widths of a quantized model.

    Weights are symmetric with a narrow range (codes -127 to 127 at 8 bits) and one scale for each
    output channel; activations are asymmetric with one scale for each tensor. This is the
    specification that LiteRT's integer kernels follow.

    Args:
        name: Name by which plans and artifacts call the scheme.
        weight_bits: Bits of a weight, 2 to 8. Defaults to 8.
        activation_bits: Bits of an activation. Only 8 can be run by LiteRT. Defaults to 8.

    Raises:
        ValueError: If a width is outside its range.

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", sections 2 and 3.

    Example:

    ```python
    model = tfcompress.quantize_aware(model, Scheme("int8"))
    ```
    """

    name: str = "int8"
    weight_bits: int = 8
    activation_bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.weight_bits, int) or not 2 <= self.weight_bits <= 8:
            raise ValueError(f"`weight_bits` must be 2 to 8. Received: {self.weight_bits}")
        if self.activation_bits != 8:
            raise ValueError(
                "`activation_bits` must be 8, the only width that LiteRT's integer kernels take "
                f"from fake quantization. Received: {self.activation_bits}"
            )

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal scheme."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scheme:
        """Make a scheme from `get_config`'s result."""
        return cls(**config)


SCHEMES = {scheme.name: scheme for scheme in (Scheme("int8"),)}


def get(identifier: str | Scheme | dict[str, Any]) -> Scheme:
    """Return the scheme that a name, a config or a scheme stands for.

    Raises:
        ValueError: If the name is not known; the message lists the known ones.
        TypeError: If `identifier` is something else.
    """
    if isinstance(identifier, Scheme):
        return identifier
    if isinstance(identifier, dict):
        return Scheme.from_config(identifier)
    if not isinstance(identifier, str):
        raise TypeError(f"A scheme is a name or a `Scheme`. Received: {identifier!r}")
    if identifier not in SCHEMES:
        near = difflib.get_close_matches(identifier, SCHEMES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown quantization scheme.{hint} Known: {sorted(SCHEMES)}. Received: {identifier!r}"
        )
    return SCHEMES[identifier]

"""A loaded data set: arrays, class names, and how the inputs were preprocessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tfcompress.datasets.preprocessing import Preprocessing


class Split(NamedTuple):
    """Inputs and labels of one split; unpacks as `x, y`.

    Attributes:
        x: Array of shape `(n, ...)`, or a dict or list of such arrays.
        y: Array of shape `(n,)` (class ids or numbers) or `(n, ...)`.
    """

    x: Any
    y: Any

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """What `tfcompress.datasets.load` returns.

    Attributes:
        name: The spec that it was loaded from, for example `"digits"`.
        train: Training samples, as `(x, y)`.
        test: Held-out samples, as `(x, y)`.
        validation: Samples for choosing settings, as `(x, y)`, or `None`.
        classes: Class names in the order of their ids, or `None` if the labels are numbers.
        preprocessing: What was already done to every `x`; whoever runs an exported model has to do
            the same.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or `None` if the labels are numbers."""
        return None if self.classes is None else len(self.classes)

    @property
    def input_shape(self) -> Any:
        """Shape of one sample, without the batch axis; a dict or list of shapes if `x` is one."""
        x = self.train.x
        if isinstance(x, dict):
            return {name: tuple(array.shape[1:]) for name, array in x.items()}
        if isinstance(x, (list, tuple)):
            return [tuple(array.shape[1:]) for array in x]
        return tuple(x.shape[1:])

    def __repr__(self) -> str:
        sizes = [f"train={self.train.size}"]
        if self.validation is not None:
            sizes.append(f"validation={self.validation.size}")
        sizes.append(f"test={self.test.size}")
        return (
            f"Dataset({self.name!r}, {', '.join(sizes)}, input_shape={self.input_shape}, "
            f"num_classes={self.num_classes}, preprocessing: {self.preprocessing})"
        )

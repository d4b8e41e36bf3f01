"""What is left along every axis once channels are removed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.graph import Tensor
from tfcompress.pruning.structured.coupling import Coupling
from tfcompress.pruning.structured.labels import Labels


class Kept:
    """Answers, for a choice of channels, how large axes are and which positions stay.

    Args:
        coupling: The channels of a graph.
        removed: For every label whether it goes, of shape (labels,); tied labels agree.
    """

    def __init__(self, coupling: Coupling, removed: np.ndarray) -> None:
        self.coupling = coupling
        self._removed = removed

    def positions(self, labels: Labels) -> np.ndarray | None:
        """The positions of an axis that stay, ascending; None for an axis without channels."""
        return None if labels is None else np.flatnonzero(~self._removed[labels])

    def count(self, labels: np.ndarray) -> int:
        """How many of these channels stay."""
        return int(np.count_nonzero(~self._removed[labels]))

    def weight(self, variable: Any, axis: int) -> int:
        """Size that an axis of a weight has in the smaller model."""
        axis %= len(variable.shape)
        labels = self.coupling.labels_of(variable, axis)
        return int(variable.shape[axis]) if labels is None else self.count(labels)

    def tensor(self, tensor: Tensor, axis: int) -> int | None:
        """Size that an axis of a tensor has in the smaller model; None if it is not fixed."""
        labels = self.coupling.flow(tensor).axes[axis]
        return tensor.shape[axis] if labels is None else self.count(labels)

    def sliced(self, variable: Any, values: np.ndarray) -> np.ndarray:
        """What is left of an array of a weight's shape."""
        for axis in range(values.ndim):
            positions = self.positions(self.coupling.labels_of(variable, axis))
            if positions is not None and positions.size != values.shape[axis]:
                values = np.take(values, positions, axis)
        return values

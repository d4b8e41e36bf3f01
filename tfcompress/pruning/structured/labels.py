"""Numbered channels, which of them must go together, and which must stay."""

from __future__ import annotations

import numpy as np

# One label for each position along an axis; None for an axis that has no channels.
Labels = np.ndarray | None


class ChannelLabels:
    """Labels of channels, tied into sets that can only be removed as a whole (a union-find).

    Every axis of a tensor or weight along which something may be removed carries an array of
    labels. Concatenating, splitting and flattening tensors is then indexing these arrays.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        """Labels of `count` channels that nothing ties yet, of shape `(count,)`."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Tie the channels of two arrays of one shape, position by position."""
        if first is second or np.array_equal(first, second):
            return
        for a, b in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True):
            root, other = self._root(a), self._root(b)
            if root != other:
                # The smaller label stays: a set goes by the layer that runs first.
                self._parents[max(root, other)] = min(root, other)

    def pin(self, labels: Labels, reason: str, decisive: bool = False) -> None:
        """Let channels stay, and all that are or will be tied to them.

        Args:
            labels: The channels; None for none.
            reason: Why. The first one counts.
            decisive: Whether this one counts instead of an earlier one.
        """
        if labels is not None:
            for label in np.unique(labels).tolist():
                if decisive or label not in self._reasons:
                    self._reasons[label] = reason

    def roots(self) -> np.ndarray:
        """For every label the label that stands for its set."""
        return np.asarray([self._root(label) for label in range(len(self._parents))], int)

    def reasons(self) -> dict[int, str]:
        """Why sets must stay, by the label that stands for the set."""
        found: dict[int, str] = {}
        for label, reason in self._reasons.items():
            found.setdefault(self._root(label), reason)
        return found

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

"""What a model costs when some of its channels are gone, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.graph import Tensor
from tfcompress.graph.macs import Axis, axis_size, products_of, rows_of
from tfcompress.pruning.structured.groups import DependencyGroups


@dataclass(frozen=True)
class Figures:
    """What a model costs.

    Attributes:
        parameters: Number of all its weights, as `count_params` counts.
        macs: Multiply-accumulate operations for one sample, see `graph.macs.count_macs`.
        bytes: Size of the weights in their own dtypes.
        channels: Number of units in the groups that can shrink.
    """

    parameters: int
    macs: int
    bytes: int
    channels: int


class Cost:
    """Computes `Figures` from how many units every group has lost.

    Every number is a product of sizes of axes, and an axis is as much smaller as units that lie
    along it are gone.

    Args:
        groups: The groups of a model.
    """

    def __init__(self, groups: DependencyGroups) -> None:
        self._groups = groups
        self._group_of = np.full(len(groups.roots), -1)
        for number, group in enumerate(groups.groups):
            self._group_of[group.units] = number
        self._group_of = self._group_of[groups.roots]
        # Axis 0 is of size 1, to fill up shorter products with.
        self._sizes: list[int] = [1]
        self._losses: list[np.ndarray] = [np.zeros(len(groups.groups))]
        self._known: dict[tuple[int, int], int] = {}
        variables = groups.model.weights
        self._weights = self._table([[(v, i) for i in range(len(v.shape))] for v in variables])
        self._itemsizes = np.asarray([_itemsize(v) for v in variables])
        rows = rows_of(groups.graph)
        products = [
            (rows[node], product) for node in groups.graph.nodes for product in products_of(node)
        ]
        self._products = self._table([product for _, product in products])
        self._rows = np.asarray([count for count, _ in products])
        self._base = np.asarray(self._sizes, float)
        self._loss = np.stack(self._losses)
        self._units = sum(group.size for group in groups.groups)

    def figures(self, removed: Sequence[int] | np.ndarray) -> Figures:
        """The cost when `removed[i]` units of group `i` are gone."""
        gone = np.asarray(removed, float)
        sizes = self._base - self._loss @ gone
        weights = np.prod(sizes[self._weights], axis=1)
        macs = np.prod(sizes[self._products], axis=1) @ self._rows
        return Figures(
            round(weights.sum()),
            round(float(macs)),
            round(float(weights @ self._itemsizes)),
            self._units - int(gone.sum()),
        )

    def _table(self, products: Sequence[Sequence[Axis]]) -> np.ndarray:
        longest = max((len(product) for product in products), default=1)
        table = np.zeros((len(products), max(1, longest)), int)
        for number, product in enumerate(products):
            table[number, : len(product)] = [self._axis(axis) for axis in product]
        return table

    def _axis(self, axis: Axis) -> int:
        source, index = axis
        index %= len(source.shape)
        key = (id(source), index)
        if key not in self._known:
            self._known[key] = len(self._sizes)
            self._sizes.append(axis_size((source, index)))
            self._losses.append(self._loss_of(source, index))
        return self._known[key]

    def _loss_of(self, source: Any, index: int) -> np.ndarray:
        """How many positions of an axis go with one unit of each group."""
        coupling = self._groups.coupling
        if isinstance(source, Tensor):
            labels = coupling.flow(source).axes[index]
        else:
            labels = coupling.labels_of(source, index)
        loss = np.zeros(len(self._groups.groups))
        if labels is not None:
            found, counts = np.unique(self._group_of[labels], return_counts=True)
            for number, count in zip(found, counts, strict=True):
                if number >= 0:
                    loss[number] = count / self._groups.groups[number].size
        return loss


def _itemsize(variable: keras.Variable) -> int:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize

"""Which entries of one weight are pruned."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.pruning.masks import count_true
from tfcompress.pruning.targets import PruningTarget

# Attributes of masks that exist while a model trains only.
TRAINING_VALUES = ("evidence", "dense")


class Mask:
    """Which entries of one weight are pruned.

    Attributes:
        name: Name of the layer and of the weight, such as `"conv1/kernel"`.
        layer: The layer that owns the weight.
        variable: The weight, a `keras.Variable`.
        value: Boolean `keras.Variable` of the weight's shape; False where the weight is pruned.
        pruned: Number of pruned entries.
        evidence: Float32 `keras.Variable` of the weight's shape in which a criterion gathers what
            training shows; None unless one does.
        dense: `keras.Variable` like the weight in which pruned entries are trained along, so that
            they can come back; None unless they may.
    """

    def __init__(self, target: PruningTarget) -> None:
        self.name = target.name
        self.layer_name = target.layer_name
        self.layer = target.layer
        self.variable = target.variable
        self.value = keras.Variable(
            np.ones(target.variable.shape, bool), trainable=False, dtype="bool", name="pruning_mask"
        )
        self.pruned = 0
        self.evidence: keras.Variable | None = None
        self.dense: keras.Variable | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.variable.shape)

    @property
    def sparsity(self) -> float:
        """Share of the entries that are pruned."""
        return self.pruned / self.size

    def assign(self, value: Any, pruned: int | None = None) -> None:
        """Set the mask.

        Args:
            value: Boolean array or tensor of the weight's shape.
            pruned: How many entries are False; counted if None.
        """
        self.value.assign(value)
        self.pruned = self.size - count_true(self.value.value) if pruned is None else pruned

    def values(self) -> Any:
        """The weight; where it is pruned, what it would be if it is trained along, else 0."""
        weight = self.variable.value
        if self.dense is None:
            return weight
        return ops.where(self.value.value, weight, self.dense.value)

    def exchange(self, value: Any, pruned: int) -> None:
        """Set the mask; entries that come back take the values that they have grown to."""
        if self.dense is not None:
            self.dense.assign(self.values())
            self.variable.assign(self.masked_by(value))
        self.assign(value, pruned)

    def trained_along(self, weight: Any, keep: Any, dense: Any) -> Any:
        """What `dense` is after a training step.

        Args:
            weight: The weight after the step, in which pruned entries started from 0.
            keep: The mask.
            dense: What it was before.
        """
        return ops.where(keep, weight, dense + weight)

    def masked(self, value: Any) -> Any:
        """`value` with 0 where pruned, which a product is not where the value is not finite."""
        return ops.where(self.value.value, value, ops.zeros((), dtype=value.dtype))

    def masked_by(self, value: Any) -> Any:
        """`values` with 0 where another mask, a boolean tensor of its shape, is False."""
        weight = self.values()
        return ops.where(value, weight, ops.zeros((), dtype=weight.dtype))

    def apply(self) -> None:
        """Set the pruned entries of the weight to zero."""
        if self.pruned:
            self.variable.assign(self.masked(self.variable.value))

    def regrown(self) -> int:
        """How many pruned entries of the weight are not zero."""
        pruned = ops.logical_not(self.value.value)
        return count_true(ops.logical_and(pruned, self.variable.value != 0))

    def zeros(self) -> int:
        """How many entries of the weight are zero, pruned or not."""
        return count_true(self.variable.value == 0)

    def numpy(self) -> np.ndarray:
        """The mask as a boolean NumPy array of the weight's shape."""
        array: np.ndarray = np.asarray(ops.convert_to_numpy(self.value), bool)
        return array

    def __repr__(self) -> str:
        return f"<Mask {self.name}, {self.pruned} of {self.size} pruned>"

"""Bringing axes to the end, where LiteRT's kernels want them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from tfcompress.graph.axes import axes_of


def over_last_axis(x: Any, axes: Sequence[int], function: Callable[[Any], Any]) -> Any:
    """Apply a function of the last axis over other axes, by transposing there and back.

    Args:
        x: Tensor whose first axis is the batch.
        axes: The axes, not the first one. Several are joined into one.
        function: Takes a tensor and returns one of the same shape.

    Returns:
        A tensor of the shape of `x`.
    """
    rank = len(x.shape)
    joined = sorted(axes_of(axes, rank))
    if joined == [rank - 1]:
        return function(x)
    order = [axis for axis in range(rank) if axis not in joined] + joined
    moves = order != list(range(rank))
    if moves:
        x = ops.transpose(x, order)
    shape = x.shape
    kept = shape[1 : rank - len(joined)]
    y = ops.reshape(x, (-1, *kept, math.prod(shape[rank - len(joined) :])))
    y = ops.reshape(function(y), (-1, *shape[1:]))
    return ops.transpose(y, [order.index(axis) for axis in range(rank)]) if moves else y

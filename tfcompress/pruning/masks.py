"""Exact magnitude masks: which weights of one or several tensors are the smallest.

The masks of all tensors together hold exactly the number of zeros that was asked for, ties broken
by position, with at least one weight left in every tensor. Weights stay on their device: only a
sample of the magnitudes and the few that lie around the threshold reach the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

# Up to this many weights, copying the magnitudes costs less than the operations that avoid it.
HOST_LIMIT = 1 << 20
SAMPLE_SIZE = 1 << 16


@dataclass(frozen=True)
class Threshold:
    """The magnitude that separates pruned from kept weights.

    Attributes:
        value: Weights of smaller magnitude are pruned, of larger magnitude are kept.
        ties: How many weights are exactly `value` in magnitude.
        pruned_ties: How many of these are pruned.
    """

    value: float
    ties: int
    pruned_ties: int


def pruned_count(sizes: Sequence[int], sparsity: float) -> int:
    """How many weights of some tensors a sparsity prunes: the nearest number that leaves one each.

    Args:
        sizes: Number of weights in each tensor.
        sparsity: Share of all of them to prune, in [0, 1).

    Returns:
        Number of weights to prune, at most `sum(sizes) - len(sizes)`.
    """
    total = sum(sizes)
    return max(0, min(total - len(sizes), math.floor(total * sparsity + 0.5)))


def magnitudes(weight: Tensor, mask: Tensor) -> Tensor:
    """Magnitudes of the weights, 0 where the mask is False.

    Args:
        weight: Float tensor of any shape and float dtype.
        mask: Boolean tensor of the same shape.

    Returns:
        Tensor of shape `(size,)`, float32, or float64 for float64 weights. Both represent every
        float16, bfloat16 and float32 value exactly, so that no two different weights compare equal.
    """
    dtype = keras.backend.standardize_dtype(weight.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    flat = ops.reshape(ops.where(mask, weight, ops.zeros((), dtype=dtype)), (-1,))
    return ops.cast(ops.abs(flat), wide)


def find_threshold(tensors: Sequence[Tensor], count: int) -> Threshold:
    """Find the `count`-th smallest magnitude of several tensors, exactly.

    Large tensors are first narrowed to the few values around the threshold, on their device: a
    sample brackets it, the weights below the bracket are counted, and only those inside are copied
    and selected from. A bracket that misses (the sample was not representative) is opened on that
    side, so the answer is exact whatever the order of the weights.

    Args:
        tensors: Magnitudes, see `magnitudes`.
        count: How many of them to prune, from 1 to their total size.

    Returns:
        The threshold.

    Raises:
        ValueError: If the threshold is not a number: the weights themselves are NaN.
    """
    total = sum(_size(tensor) for tensor in tensors)
    if total <= HOST_LIMIT:
        return _threshold_in([ops.convert_to_numpy(tensor) for tensor in tensors], count)
    low, high = _bracket(tensors, count, total)
    below = sum(count_true(tensor < low) for tensor in tensors)
    if below >= count:
        low, below = -math.inf, 0
    inside = [_values_between(tensor, low, high) for tensor in tensors]
    if below + sum(values.size for values in inside) < count:
        inside = [_values_between(tensor, low, math.inf) for tensor in tensors]
    return _threshold_in(inside, count - below)


def smallest_masks(
    weights: Sequence[Tensor], masks: Sequence[Tensor], count: int
) -> tuple[list[Tensor], list[int]]:
    """Masks that prune the `count` smallest weights of all tensors together.

    Weights that the given masks prune already stay pruned as long as `count` reaches that far.
    A tensor that would lose every weight keeps its largest one, and the others make up for it.

    Args:
        weights: Float tensors of any shapes.
        masks: Boolean tensors of the same shapes, False where a weight is pruned already.
        count: Number of weights to prune, at most the total size less the number of tensors and
            at least the number that is pruned already.

    Returns:
        The new masks, and how many weights each prunes.

    Raises:
        ValueError: If the weights are NaN.
    """
    sizes = [_size(weight) for weight in weights]
    single_survivor: set[int] = set()
    while True:
        rest = [index for index in range(len(weights)) if index not in single_survivor]
        remaining = count - sum(sizes[index] - 1 for index in single_survivor)
        new: dict[int, Tensor] = {
            index: _largest_only(weights[index], masks[index]) for index in single_survivor
        }
        new.update(_smallest_removed(weights, masks, rest, remaining))
        pruned = [sizes[i] - count_true(new[i]) for i in range(len(weights))]
        emptied = {index for index in rest if pruned[index] == sizes[index]}
        if not emptied:
            return [new[index] for index in range(len(weights))], pruned
        single_survivor |= emptied


def _smallest_removed(
    weights: Sequence[Tensor], masks: Sequence[Tensor], indices: Sequence[int], count: int
) -> dict[int, Tensor]:
    """Masks of the tensors at `indices` that prune the `count` smallest of their weights."""
    if count <= 0:
        return {index: ops.ones_like(masks[index]) for index in indices}
    values = {index: magnitudes(weights[index], masks[index]) for index in indices}
    threshold = find_threshold(list(values.values()), count)
    whole_ties = threshold.pruned_ties == threshold.ties
    quota = threshold.pruned_ties
    if not whole_ties and threshold.value == 0.0:
        # Among zeros, those that are pruned already go first: a mask must not wander.
        quota -= sum(_size(masks[i]) - count_true(masks[i]) for i in indices)
    quota = max(0, quota)
    result: dict[int, Tensor] = {}
    for index in indices:
        # "not <=" rather than ">": a NaN ranks as largest and is kept.
        kept = ops.logical_not(values[index] <= threshold.value)
        if not whole_ties:
            ties = ops.logical_and(
                values[index] == threshold.value, ops.reshape(masks[index], (-1,))
            )
            tie_count = count_true(ties)
            if tie_count > quota:
                rank = ops.cumsum(ops.cast(ties, "int32"))
                ties_kept = ops.logical_and(ties, rank > quota)
                kept = ops.logical_or(kept, ties_kept)
            quota -= min(quota, tie_count)
        result[index] = ops.reshape(kept, tuple(weights[index].shape))
    return result


def _largest_only(weight: Tensor, mask: Tensor) -> Tensor:
    values = magnitudes(weight, mask)
    position = ops.cast(ops.argmax(values), "int32")
    return ops.reshape(ops.arange(_size(weight), dtype="int32") == position, tuple(weight.shape))


def _threshold_in(parts: Sequence[np.ndarray], count: int) -> Threshold:
    # A copy, because the selection reorders in place and a part may be a view of a weight.
    values = np.concatenate([np.reshape(part, -1) for part in parts])
    values.partition(count - 1)
    value = float(values[count - 1])
    if math.isnan(value):
        raise ValueError(
            "Weights cannot be ranked by magnitude because they are NaN: the training has "
            "diverged. Lower the learning rate, or stop earlier with "
            "`keras.callbacks.TerminateOnNaN`."
        )
    smaller = int(np.count_nonzero(values[: count - 1] < value))
    return Threshold(value, int(np.count_nonzero(values == value)), count - smaller)


def _bracket(tensors: Sequence[Tensor], count: int, total: int) -> tuple[float, float]:
    stride = max(1, total // SAMPLE_SIZE)
    # An odd stride does not fall into step with channel counts, which are mostly even.
    stride += 1 - stride % 2
    sample = np.sort(np.concatenate([ops.convert_to_numpy(tensor[::stride]) for tensor in tensors]))
    share = count / total
    # Four standard deviations of a sampled rank: a miss costs one more pass, not exactness.
    margin = 16 + int(4 * math.sqrt(sample.size * share * (1 - share)))
    centre = round(share * sample.size)
    low = float(sample[centre - margin]) if centre - margin >= 0 else -math.inf
    high = float(sample[centre + margin]) if centre + margin < sample.size else math.inf
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _values_between(tensor: Tensor, low: float, high: float) -> np.ndarray:
    # "not >" and "not <": NaNs stay in as the largest values when the bracket is open above.
    inside = ops.logical_not(tensor < low)
    if high < math.inf:
        inside = ops.logical_and(inside, tensor <= high)
    positions = ops.nonzero(inside)[0]
    values: np.ndarray = ops.convert_to_numpy(ops.take(tensor, positions))
    return values


def count_true(condition: Tensor) -> int:
    """Count the True entries of a boolean tensor."""
    # int32 halves the traffic of `count_nonzero`; no single tensor has 2**31 weights.
    return int(ops.convert_to_numpy(ops.sum(ops.cast(condition, "int32"))))


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape)

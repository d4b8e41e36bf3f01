"""Exact masks: which units (weights, blocks or channels) of one or several tensors score lowest.

The masks of all tensors together prune exactly as many units as was asked for, ties broken by
position, with at least one unit left in every tensor. Scores stay on their device: only a sample of
them and the few that lie around the threshold reach the host.
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

# Up to this many units, copying the scores costs less than the operations that avoid it.
HOST_LIMIT = 1 << 20
SAMPLE_SIZE = 1 << 16

_NAN = (
    "Weights cannot be ranked because their scores are NaN: the training has diverged. Lower the "
    "learning rate, or stop earlier with `keras.callbacks.TerminateOnNaN`."
)


@dataclass(frozen=True)
class Threshold:
    """The score that separates pruned from kept units.

    Attributes:
        value: Units of lower score are pruned, of higher score are kept.
        ties: How many units score exactly `value`.
        pruned_ties: How many of these are pruned.
    """

    value: float
    ties: int
    pruned_ties: int


def mask_of_zeros(weight: Tensor) -> Tensor | None:
    """The mask of a weight that looks pruned: it holds zeros among other values.

    Training leaves no exact zeros. Only identities, with one value for each output, have them from
    the start.

    Args:
        weight: The values, of any shape.

    Returns:
        Booleans of the same shape, False where the weight is zero; None if it does not look pruned.
    """
    kept = weight != 0
    count = count_true(kept)
    shape = tuple(weight.shape)
    if count in (0, math.prod(shape)):
        return None
    used = ops.any(ops.reshape(kept, (-1, shape[-1])), axis=0)
    return None if count == shape[-1] == count_true(used) else kept


def pruned_count(sizes: Sequence[int], sparsity: float) -> int:
    """How many units of some tensors a sparsity prunes: the nearest number that leaves one each.

    Args:
        sizes: Number of units in each tensor.
        sparsity: Share of all of them to prune, in [0, 1).

    Returns:
        Number of units to prune, at most `sum(sizes) - len(sizes)`.
    """
    total = sum(sizes)
    return max(0, min(total - len(sizes), math.floor(total * sparsity + 0.5)))


def ranked(scores: Tensor, kept: Tensor) -> Tensor:
    """Scores in the order in which their units are pruned: what is pruned already comes first.

    Args:
        scores: Float tensor of shape `(units,)`, of any float dtype.
        kept: Boolean tensor of the same shape, False where a unit is pruned already.

    Returns:
        Tensor of shape `(units,)`, float32, or float64 for float64 scores, -infinity where pruned.
        Both represent every float16, bfloat16 and float32 value exactly, so that no two different
        scores compare equal.
    """
    dtype = keras.backend.standardize_dtype(scores.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    return ops.where(kept, ops.cast(scores, wide), ops.cast(-math.inf, wide))


def find_threshold(tensors: Sequence[Tensor], count: int) -> Threshold:
    """Find the `count`-th lowest score of several tensors, exactly.

    Large tensors are first narrowed to the few values around the threshold, on their device: a
    sample brackets it, those below the bracket are counted, and only those inside are copied
    and selected from. A bracket that misses (the sample was not representative) is opened on that
    side, so the answer is exact whatever their order.

    Args:
        tensors: Scores of shape `(units,)`, see `ranked`.
        count: How many of them to prune, from 1 to their total size.

    Returns:
        The threshold.

    Raises:
        ValueError: If the threshold is not a number: the scores themselves are NaN.
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
        inside = [_values_between(tensor, low, None) for tensor in tensors]
    return _threshold_in(inside, count - below)


def smallest_masks(
    weights: Sequence[Tensor], masks: Sequence[Tensor], count: int
) -> tuple[list[Tensor], list[int]]:
    """Masks that prune the `count` weights of smallest magnitude; see `lowest_removed`.

    Args:
        weights: Float tensors of any shapes.
        masks: Boolean tensors of the same shapes, False where a weight is pruned already.
        count: Number of weights to prune.

    Returns:
        The new masks, and how many weights each prunes.

    Raises:
        ValueError: If the weights are NaN.
    """
    scores = [ops.reshape(ops.abs(weight), (-1,)) for weight in weights]
    kept = [ops.reshape(mask, (-1,)) for mask in masks]
    new, pruned = lowest_removed(scores, kept, count)
    return [ops.reshape(m, tuple(w.shape)) for m, w in zip(new, weights)], pruned


def lowest_removed(
    scores: Sequence[Tensor], kept: Sequence[Tensor], count: int
) -> tuple[list[Tensor], list[int]]:
    """Masks without the `count` units that score lowest in all tensors together.

    Units that are pruned already stay pruned. A tensor that would lose every unit keeps its best
    one, and the others make up for it.

    Args:
        scores: Float tensors of shape `(units,)`, of which the lowest are pruned first.
        kept: Boolean tensors of the same shapes, False where a unit is pruned already.
        count: Number of units to prune, at most their number less the number of tensors and at
            least the number that is pruned already.

    Returns:
        The new masks, and how many units each prunes.

    Raises:
        ValueError: If the scores are NaN.
    """
    sizes = [_size(score) for score in scores]
    single_survivor: set[int] = set()
    while True:
        rest = [index for index in range(len(scores)) if index not in single_survivor]
        remaining = count - sum(sizes[index] - 1 for index in single_survivor)
        new: dict[int, Tensor] = {
            index: _best_only(scores[index], kept[index]) for index in single_survivor
        }
        new.update(_without_lowest(scores, kept, rest, remaining))
        pruned = [sizes[i] - count_true(new[i]) for i in range(len(scores))]
        emptied = {index for index in rest if pruned[index] == sizes[index]}
        if not emptied:
            return [new[index] for index in range(len(scores))], pruned
        single_survivor |= emptied


def lowest_removed_by_size(
    scores: Sequence[Tensor], kept: Sequence[Tensor], members: Sequence[int], count: int
) -> tuple[list[Tensor], list[int]]:
    """Like `lowest_removed`, for units of different sizes, of which there are few.

    Args:
        scores: Float tensors of shape `(units,)`.
        kept: Boolean tensors of the same shapes.
        members: How many weights a unit of each tensor has.
        count: Number of weights to prune; the number that whole units can come nearest to is.

    Returns:
        The new masks, and how many units each prunes.

    Raises:
        ValueError: If the scores are NaN.
    """
    masks = [np.array(ops.convert_to_numpy(mask), bool) for mask in kept]
    values, owners, places, costs = [], [], [], []
    for index, (score, mask) in enumerate(zip(scores, masks)):
        array = np.asarray(ops.convert_to_numpy(ranked(score, kept[index])), "float64")
        # The best unit of each tensor is none to choose from.
        free = np.flatnonzero(mask & (np.arange(mask.size) != np.argmax(array)))
        values.append(array[free])
        owners.append(np.full(free.size, index))
        places.append(free)
        costs.append(np.full(free.size, members[index]))
        count -= members[index] * int((~mask).sum())
    value, owner, place = map(np.concatenate, (values, owners, places))
    if np.isnan(value).any():
        raise ValueError(_NAN)
    order = np.argsort(value, kind="stable")
    reached = np.cumsum(np.concatenate(costs)[order])
    taken = int(np.searchsorted(reached, count, side="right"))
    over = reached[taken] - count if taken < reached.size else math.inf
    under = count - (reached[taken - 1] if taken else 0)
    for unit in order[: taken + (over < under)]:
        masks[owner[unit]][place[unit]] = False
    return [ops.convert_to_tensor(mask) for mask in masks], [int((~m).sum()) for m in masks]


def _without_lowest(
    scores: Sequence[Tensor], kept: Sequence[Tensor], indices: Sequence[int], count: int
) -> dict[int, Tensor]:
    """Masks of the tensors at `indices` without the `count` lowest of their units."""
    if count <= 0:
        return {index: ops.ones_like(kept[index]) for index in indices}
    values = {index: ranked(scores[index], kept[index]) for index in indices}
    threshold = find_threshold(list(values.values()), count)
    quota = threshold.pruned_ties
    result: dict[int, Tensor] = {}
    for index in indices:
        # "not <=" rather than ">": a NaN ranks as largest and is kept.
        result[index] = ops.logical_not(values[index] <= threshold.value)
        if threshold.pruned_ties < threshold.ties:
            ties = values[index] == threshold.value
            tie_count = count_true(ties)
            if tie_count > quota:
                rank = ops.cumsum(ops.cast(ties, "int32"))
                ties_kept = ops.logical_and(ties, rank > quota)
                result[index] = ops.logical_or(result[index], ties_kept)
            quota -= min(quota, tie_count)
    return result


def _best_only(scores: Tensor, kept: Tensor) -> Tensor:
    position = ops.cast(ops.argmax(ranked(scores, kept)), "int32")
    return ops.arange(_size(scores), dtype="int32") == position


def _threshold_in(parts: Sequence[np.ndarray], count: int) -> Threshold:
    # A copy, because the selection reorders in place and a part may be a view of a weight.
    values = np.concatenate([np.reshape(part, -1) for part in parts])
    values.partition(count - 1)
    value = float(values[count - 1])
    if math.isnan(value):
        raise ValueError(_NAN)
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


def _values_between(tensor: Tensor, low: float, high: float | None) -> np.ndarray:
    """Values from `low` to `high`; of a `high` of infinity without it, of None all."""
    # "not <" rather than ">=": NaNs stay in as the largest values when the bracket is open above.
    inside = ops.logical_not(tensor < low)
    if high is not None:
        # What a pattern protects is infinite, and too much to copy.
        below = tensor <= high if high < math.inf else tensor < high
        inside = ops.logical_and(inside, below)
    positions = ops.nonzero(inside)[0]
    values: np.ndarray = ops.convert_to_numpy(ops.take(tensor, positions))
    return values


def count_true(condition: Tensor) -> int:
    """Count the True entries of a boolean tensor."""
    # int32 halves the traffic of `count_nonzero`; no single tensor has 2**31 weights.
    return int(ops.convert_to_numpy(ops.sum(ops.cast(condition, "int32"))))


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape)

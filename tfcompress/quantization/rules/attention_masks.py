"""Masks of attention scores, and what LiteRT puts in the place of a masked score."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

# Distance of a masked score below the largest score of any row. Keras takes 1e9, which would leave
# no codes for the scores themselves. exp(-12) is 6e-6: far below half a code of the softmax
# (1/512) and, summed over a thousand masked places, still below 1 % of a row's weight. Measured
# from the lowest row's maximum, and not from the lowest score, it costs the range little.
MASKED_DISTANCE = 12.0

_LARGE = 3e4  # within float16


def causal_mask(targets: Any, sources: Any) -> Any:
    """Shape (1, targets, sources): no place looks at later ones."""
    return _distances(targets, sources) >= 0


def window_mask(targets: Any, sources: Any, window: int) -> Any:
    """Shape (1, targets, sources): places look less than `window` places far."""
    distances = _distances(targets, sources)
    return (distances < window) & (distances > -window)


def _distances(targets: Any, sources: Any) -> Any:
    """How far places lie behind those they look at: an array, or a tensor of open lengths.

    Args:
        targets: Number of places that look, an int or a scalar tensor.
        sources: Number of places that they look at, likewise.
    """
    fixed = isinstance(targets, int) and isinstance(sources, int)
    arange = np.arange if fixed else ops.arange
    return arange(targets)[None, :, None] - arange(sources)[None, None, :]


def both(*masks: Any) -> Any:
    """The conjunction of masks, of which any may be None; None without any."""
    result = None
    for mask in masks:
        if mask is None:
            continue
        if isinstance(mask, np.ndarray) and isinstance(result, np.ndarray):
            result = result & mask
        else:
            mask = ops.cast(mask, "bool")
            result = mask if result is None else ops.logical_and(result, mask)
    return result


def masked(scores: Any, mask: Any, quantizer: Any) -> Any:
    """Scores over their last axis, with the lowest value of their range where the mask is false.

    In training the value follows the scores, and the range that the quantizer learns reaches down
    to it. In the exported graph it is the low end of that range, which is the code -128.

    Args:
        scores: Float tensor.
        mask: Booleans that broadcast to `scores`.
        quantizer: The quantizer that the result is for.

    Returns:
        A tensor of the shape of `scores`.
    """
    if quantizer.fixed_range is not None:
        return ops.where(mask, scores, quantizer.fixed_range[0])
    shown = ops.where(mask, scores, -_LARGE)
    top = ops.stop_gradient(ops.max(shown, axis=-1))
    # Rows that are masked as a whole say nothing about the scores.
    lowest = ops.min(ops.where(top > -_LARGE / 2, top, _LARGE))
    lowest = ops.where(lowest < _LARGE / 2, lowest, 0.0)
    # Cuts off what lies as far below and would not count either.
    return ops.maximum(shown, lowest - MASKED_DISTANCE)

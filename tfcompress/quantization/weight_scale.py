"""The scale of a weight, from the distribution of its values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.quantization.integer_arithmetic import short_scale
from tfcompress.quantization.observers import octav_limit
from tfcompress.quantization.power_of_two import nearest_power_of_two, next_power_of_two

# How the largest code's value is chosen; see `weight_scale`.
METHODS = ("max", "mse", "octav")

# The scale is not chosen but came from elsewhere, and stays; see `Scheme`.
GIVEN = "given"

_CANDIDATES = 16
_ITERATIONS = 10


def weight_scale(
    weight: Any,
    channel_axes: tuple[int, ...],
    bits: int = 8,
    method: str = "max",
    power_of_two: bool = False,
) -> Any:
    """What one code of a symmetric, narrow-range grid is worth.

    Args:
        weight: Float32 tensor of any shape.
        channel_axes: Axes along which the scales differ; none for one scale in all.
        bits: Width of the codes. Defaults to 8.
        method: `"max"`: the largest magnitude gets the largest code. `"mse"`: the scale of least
            squared error among shrunken ones (Nagel et al. 2021, section 3.1). `"octav"`: the same
            optimum by Newton's method (Sakr et al. 2022, equation 6). The latter two clip.
        power_of_two: Whether the scale is a power of two, as in the fixed-point form
            `round(w * 2**p)`: the next one above for `"max"`, the best of that and the two below
            for `"mse"`, the nearest one for `"octav"` (Jain et al. 2020, section 3).

    Returns:
        A float32 tensor of the rank of `weight`, of size 1 along the reduced axes. 1 where all
        values are zero, which any scale represents.
    """
    rank = len(weight.shape)
    kept = {axis % rank for axis in channel_axes}
    reduced = tuple(axis for axis in range(rank) if axis not in kept)
    steps = 2 ** (bits - 1) - 1
    magnitudes = ops.abs(ops.stop_gradient(weight))
    largest = ops.max(magnitudes, axis=reduced, keepdims=True)
    filled = largest > 0
    scale = ops.where(filled, largest * (1.0 / steps), ops.ones_like(largest))
    if method == "octav":
        # The paper counts 2**bits codes; the narrow range has fewer, which tells at 2 and 3 bits.
        limit = octav_limit(magnitudes, 1.0 / (12.0 * steps**2), reduced, _ITERATIONS)
        scale = ops.where(filled, limit * (1.0 / steps), scale)
        return nearest_power_of_two(scale) if power_of_two else short_scale(scale)
    if power_of_two:
        scale = next_power_of_two(scale)
        shares = [1.0, 0.5, 0.25]
    else:
        shares = [1.0 - 0.05 * number for number in range(_CANDIDATES)]
    if method == "mse":
        scale = _least_error(magnitudes, scale, shares, steps, reduced)
    return short_scale(ops.where(filled, scale, ops.ones_like(scale)))


def _least_error(
    magnitudes: Any, whole: Any, shares: list[float], steps: int, reduced: tuple[int, ...]
) -> Any:
    best_scale = best_error = None
    for share in shares:
        scale = whole * share
        rounded = ops.minimum(ops.round(magnitudes / scale), float(steps)) * scale
        error = ops.sum(ops.square(rounded - magnitudes), axis=reduced, keepdims=True)
        if best_scale is None:
            best_scale, best_error = scale, error
        else:
            best_scale = ops.where(error < best_error, scale, best_scale)
            best_error = ops.minimum(error, best_error)
    return best_scale


def fake_quant_to_limit(
    weight: Any, limit: Any, channel_axes: tuple[int, ...], bits: int = 8
) -> Any:
    """Round and clip a weight to a symmetric, narrow-range grid, as TensorFlow's operation does it.

    It decides ties as tfmot's training does, which rounding the quotient would not.

    Args:
        weight: Float32 tensor.
        limit: What the largest code stands for; of the rank of `weight`, of size 1 along all but
            the channel axes.
        channel_axes: Axes along which the limits differ.
        bits: Width of the codes. Defaults to 8.

    Returns:
        A tensor of the same shape. Its gradient is one inside the range and zero outside.
    """
    ends = ops.stop_gradient(ops.reshape(limit, (-1,)))
    quantize = keras.quantizers.fake_quant_with_min_max_vars
    if ends.shape[0] == 1:
        return quantize(weight, -ends[0], ends[0], num_bits=bits, narrow_range=True)
    rank = len(weight.shape)
    kept = sorted({axis % rank for axis in channel_axes})
    order = [axis for axis in range(rank) if axis not in kept] + kept
    moved = ops.transpose(weight, order)
    rows = ops.reshape(moved, (-1, ends.shape[0]))
    rows = quantize(rows, -ends, ends, num_bits=bits, narrow_range=True, axis=-1)
    return ops.transpose(ops.reshape(rows, moved.shape), np.argsort(order).tolist())


def fake_quant_to_scale(weight: Any, scale: Any, bits: int = 8) -> Any:
    """Round and clip a weight to a symmetric, narrow-range grid of a given scale.

    Args:
        weight: Float32 tensor.
        scale: What one code is worth; broadcasts to `weight`.
        bits: Width of the codes. Defaults to 8.

    Returns:
        A tensor of the same shape. Its gradient is one inside the range; where a value is clipped
        it falls off as `limit / |weight|`, so that the value keeps learning (magnitude-aware
        differentiation, Sakr et al. 2022, section 4).
    """
    steps = 2 ** (bits - 1) - 1
    scale = ops.stop_gradient(scale)
    value = ops.stop_gradient(weight)
    rounded = ops.clip(ops.round(value / scale), -steps, steps) * scale
    slope = ops.minimum(1.0, steps * scale / ops.maximum(ops.abs(value), keras.config.epsilon()))
    return ops.stop_gradient(rounded) + (weight - value) * ops.stop_gradient(slope)

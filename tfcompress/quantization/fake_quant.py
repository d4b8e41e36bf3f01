"""Fake quantization: rounding to the integer grid in float, with straight-through gradients."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.quantization.integer_arithmetic import short_scale, straight_through

# The smallest range that is still told apart from an empty one (an all-zero channel or tensor).
SMALLEST_RANGE = 1e-6

# Far above float noise in a code, far below the distance of averages from a tie.
_TIE_MARGIN = 1e-3


def fake_quant_weight(weight: Any, channel_axes: tuple[int, ...], bits: int = 8) -> Any:
    """Round a weight to a symmetric, narrow-range grid with one scale for each channel.

    The largest magnitude of a channel gets the code `2 ** (bits - 1) - 1`, so that a converter that
    derives the scale from the rounded values finds the same one. Zero stays exactly zero.

    Args:
        weight: Float tensor of any shape.
        channel_axes: Axes along which the scales differ; negative counts from the end.
        bits: Width of the codes. Defaults to 8.

    Returns:
        A float32 tensor of the same shape. Its gradient with respect to `weight` is one everywhere
        (straight-through estimator, Bengio et al. 2013): no value is clipped.

    Example:

    ```python
    fake_quant_weight(np.array([[0.5, -2.0], [0.1, 0.3]]), channel_axes=(-1,))
    ```
    """
    weight = ops.cast(weight, "float32")
    rank = len(weight.shape)
    kept = {axis % rank for axis in channel_axes}
    reduced = tuple(axis for axis in range(rank) if axis not in kept)
    steps = 2 ** (bits - 1) - 1
    largest = ops.max(ops.abs(weight), axis=reduced, keepdims=True)
    # An all-zero channel would divide by zero; any scale represents it exactly.
    scale = short_scale(ops.where(largest > 0, largest * (1.0 / steps), ops.ones_like(largest)))
    return straight_through(weight, ops.round(weight / scale) * scale)


def fake_quant_activation(x: Any, low: Any, high: Any, bits: int = 8) -> Any:
    """Round an activation to an asymmetric grid over `[low, high]`.

    On the TensorFlow backend this is the operation that the TFLite converter recognises. The
    range is nudged so that zero has a code of its own; the gradient is one inside the range and
    zero outside.

    Args:
        x: Float tensor.
        low: Scalar, at most 0.
        high: Scalar, at least 0.
        bits: Width of the codes. Defaults to 8.

    Returns:
        A tensor of the shape and dtype of `x`.
    """
    # Of constants in Python: a graph of unrolled steps has thousands of these.
    constant = isinstance(low, float) and isinstance(high, float)
    high = (max if constant else ops.maximum)(high, low + SMALLEST_RANGE)
    y = keras.quantizers.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)
    return ops.cast(y, x.dtype)


def round_to_codes(x: Any, low: Any, high: Any, bits: int = 8) -> Any:
    """Round values that lie between the codes of a range as LiteRT's integer averages do.

    LiteRT sums the integer codes of a pooling window and divides with rounding half away from zero,
    so the code of an average, not its value, decides on which side a tie falls.

    Args:
        x: Float tensor of averages of values on the grid of `[low, high]`.
        low: Scalar, at most 0.
        high: Scalar, at least 0.
        bits: Width of the codes. Defaults to 8.

    Returns:
        A tensor of the shape and dtype of `x`, on the grid. Its gradient with respect to `x` is 1.
    """
    levels = 2**bits - 1
    half = 2 ** (bits - 1)
    low = ops.cast(low, "float32")
    high = ops.maximum(ops.cast(high, "float32"), low + SMALLEST_RANGE)
    scale = (high - low) / levels
    zero_point = ops.round(-low / scale) - half
    code = ops.cast(x, "float32") / scale + zero_point
    # Ties are common (every fourth average of four) and must not be decided by float noise.
    rounded = ops.sign(code) * ops.floor(ops.abs(code) + 0.5 + _TIE_MARGIN)
    return straight_through(x, ops.cast((rounded - zero_point) * scale, x.dtype))

"""Scales and ranges that the optimizer trains, with the gradients of the papers."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

# What can learn by gradient; see `Scheme`.
METHODS = ("lsq", "pact")

# Weight of the square of a PACT range in the loss. Choi et al. give it that of the weights.
PACT_DECAY = 1e-4


def learned_value(start: Any, growth: Any, gradient_scale: Any = 1.0) -> Any:
    """A positive value that is trained through its logarithm.

    The variable starts at zero, where weight decay does no harm, and keeps the value positive.

    Args:
        start: Positive tensor, the value at the start.
        growth: The trained variable's value: logarithm of the ratio to `start`, of the same shape.
        gradient_scale: Factor on the gradient. Defaults to 1.

    Returns:
        `start * exp(growth)`. Its gradient is such that a step of gradient descent changes it as
        if it were the trained variable itself, to first order.
    """
    value = ops.stop_gradient(start * ops.exp(growth))
    slope = ops.stop_gradient(gradient_scale / value)
    return value + (growth - ops.stop_gradient(growth)) * slope


def lsq_gradient_scale(values: int, largest_code: Any) -> float:
    """Factor that keeps the updates of a scale in proportion to those of weights.

    Args:
        values: How many values share the scale: weights, or the features of one sample.
        largest_code: Largest magnitude of a code.

    Returns:
        The factor.

    Reference: Esser et al. 2020, "Learned Step Size Quantization", section 2.2.
    """
    return 1.0 / math.sqrt(max(values, 1) * largest_code)


def pact_gradient_scale(steps: int) -> float:
    """Factor with which gradient descent on a scale moves a range as if that were trained.

    Args:
        steps: How many steps of the scale the range has.

    Returns:
        The factor: once because the range is so much larger, once because its gradient is smaller.
    """
    return 1.0 / steps**2


def lsq_quantize(x: Any, scale: Any, lowest_code: Any, highest_code: Any) -> Any:
    """Quantize with a trained scale.

    Args:
        x: Float32 tensor.
        scale: What one code is worth; broadcasts to `x`.
        lowest_code: Smallest code, at most 0.
        highest_code: Largest code, at least 0.

    Returns:
        A tensor of the shape of `x`. Its gradient with respect to `x` is one inside the range and
        zero outside; with respect to `scale` it is `round(x / scale) - x / scale` inside, and the
        code outside.

    Reference: Esser et al. 2020, section 2.1, equations 1 to 3.
    """
    code = ops.clip(x / scale, lowest_code, highest_code)
    code = code + ops.stop_gradient(ops.round(code) - code)
    return code * scale


def pact_clip(x: Any, scale: Any, lowest_code: Any, highest_code: Any) -> Any:
    """Clip to a trained range, without rounding.

    Args:
        x: Float32 tensor.
        scale: What one code is worth; the codes at both ends are fixed.
        lowest_code: Smallest code, at most 0.
        highest_code: Largest code, at least 0.

    Returns:
        A tensor of the shape of `x`. Its gradient with respect to `x` is one inside the range and
        zero outside; with respect to `scale` it is zero inside, and the code outside.

    Reference: Choi et al. 2018, "PACT: Parameterized Clipping Activation for Quantized Neural
    Networks", section 3, equation 3.
    """
    low, high = lowest_code * scale, highest_code * scale
    return ops.where(x < low, low, ops.where(x > high, high, x))

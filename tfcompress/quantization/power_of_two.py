"""Scales that are powers of two, with which rescaling is a shift."""

from __future__ import annotations

from typing import Any

from keras import ops

# A scale that is a power of two already must not be taken for one above it because of float noise.
_NOISE = 1e-4


def next_power_of_two(scale: Any) -> Any:
    """The smallest power of two that is not below a scale.

    Args:
        scale: Positive float32 tensor.

    Returns:
        A tensor of the same shape.
    """
    return _power(ops.ceil(_exponent(scale) - _NOISE))


def nearest_power_of_two(scale: Any) -> Any:
    """The power of two that is nearest to a scale in ratio.

    Args:
        scale: Positive float32 tensor.

    Returns:
        A tensor of the same shape.
    """
    return _power(ops.round(_exponent(scale)))


def _exponent(scale: Any) -> Any:
    return ops.log2(ops.cast(scale, "float32"))


def _power(exponent: Any) -> Any:
    return ops.power(ops.full_like(exponent, 2.0), exponent)


def power_of_two_range(low: Any, high: Any, bits: int) -> tuple[Any, Any]:
    """Widen a range so that its scale is a power of two.

    Args:
        low: Scalar, at most 0.
        high: Scalar, at least 0.
        bits: Width of the codes.

    Returns:
        The widened ends, whole multiples of the scale.
    """
    levels = 2**bits - 1
    scale = next_power_of_two(ops.maximum((high - low) / levels, 1e-12))
    # The zero point takes a whole code, for which the widened range need not have room.
    below = ops.ceil(-low / scale - _NOISE)
    above = ops.ceil(high / scale - _NOISE)
    scale = ops.where(below + above > levels, 2.0 * scale, scale)
    below = ops.ceil(-low / scale - _NOISE)
    return -below * scale, (levels - below) * scale

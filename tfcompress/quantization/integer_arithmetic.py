"""How LiteRT's integer kernels round, on the values that the integers stand for.

In training a value is rounded wherever fake quantization finds it. In evaluation float noise would
then decide some of the ties differently than the integers do, one value in some ten thousand, and
deep networks multiply each. So what is read off a grid and ends on a grid is computed here as
XNNPACK computes it, to the bit, where all scales are known. LiteRT's own kernels, for what XNNPACK
does not run, round twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

# Significant bits of a scale. With 8 bits of a code they fit into the 24 of float32: codes times
# scale, and ranges divided by the number of codes, are then exact wherever they are computed.
_SPLITTER = 2.0**8 + 1.0
# The larger of the two factors of an addition has 21 bits.
_FACTOR_BITS = 20


def short_scale(scale: Any) -> Any:
    """Round a scale to 16 significant bits, which changes it by less than one part in 100,000.

    Args:
        scale: Float32 tensor, not divided by a constant: graph compilers multiply by the reciprocal
            instead, and the last bit, which can decide how this rounds, would depend on them.

    Returns:
        A float32 tensor of the same shape.

    Reference: Dekker 1971, "A floating-point technique for extending the available precision",
    section 5 (the splitting).
    """
    scaled = _SPLITTER * scale
    return scaled - (scaled - scale)


@dataclass(frozen=True)
class TwoRoundings:
    """How LiteRT's own kernels requantize, which run what XNNPACK does not.

    Sums are multiplied by a factor between 1/2 and 1 and rounded, then divided by a power of two
    and rounded again. The factor has 31 bits there and 24 here.

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 2.2 and appendix B.

    Attributes:
        finer: Which power of two of stored codes a code of the kernel is worth.
        away: Whether the second time halves are rounded away from zero, and not up as the first
            time. Defaults to False.
    """

    finer: float = 1.0
    away: bool = False

    def __call__(self, sums: Any, ratio: Any) -> Any:
        """The codes of integer sums, one of which is worth `ratio` codes."""
        power = ops.power(2.0, binary_places(ratio)) * self.finer
        first = ops.floor(sums * (ratio * power) + 0.5)
        sign = ops.sign(first) if self.away else 1.0
        return sign * ops.floor(sign * first / power + 0.5)


def requantize(values: Any, unit: Any, scale: Any, roundings: TwoRoundings | None = None) -> Any:
    """Round sums of products to codes of another scale, as LiteRT does.

    Args:
        values: Float32 tensor of shape (..., channels), the sums times `unit` but for float noise.
        unit: What one of the integer sums is worth, of shape (channels,) or (1,): the scale of the
            input times that of the weights. 0 where it is not known.
        scale: What a code of the result is worth, a scalar. 0 where it is not known.
        roundings: Those of a kernel that rounds twice. Defaults to None: once, as XNNPACK does.

    Returns:
        Codes times `scale`, not clipped to any range; `values` where a scale is not known. The
        gradient with respect to `values` is 1.
    """
    known = ops.logical_and(unit > 0, scale > 0)
    unit = ops.where(known, unit, 1.0)
    scale = ops.where(known, scale, 1.0)
    sums = ops.round(values / unit)
    ratio = unit / scale
    codes = ops.round(sums * ratio) if roundings is None else roundings(sums, ratio)
    return straight_through(values, ops.where(known, codes * scale, values))


def binary_places(ratio: Any) -> Any:
    """How often 1 is halved until a factor between 1/2 and 1 is left of a ratio; 0 of larger ones.

    An exact power of two keeps the factor 1/2.

    Args:
        ratio: Positive float32 tensor.

    Returns:
        A float32 tensor of whole numbers, of the same shape.
    """
    return ops.maximum(-ops.floor(ops.log2(ratio) + 1e-6) - 1.0, 0.0)


def add(a: Any, b: Any, scales: tuple[Any, Any], scale: Any) -> Any:
    """Add as XNNPACK does, in fixed-point arithmetic of 32 bits.

    Args:
        a: Float32 tensor of codes times `scales[0]`.
        b: Float32 tensor of codes times `scales[1]`, of a shape that broadcasts with that of `a`.
        scales: What codes of the two are worth, scalars. 0 where it is not known.
        scale: What a code of the result is worth, a scalar. 0 where it is not known.

    Returns:
        Codes times `scale`, not clipped to any range; `a + b` where a scale is not known. The
        gradients are 1.
    """
    known = ops.logical_and(ops.logical_and(scales[0] > 0, scales[1] > 0), scale > 0)
    first, second, scale = (ops.where(known, x, 1.0) for x in (*scales, scale))
    ratios = first / scale, second / scale
    exponent = ops.floor(ops.log2(ops.maximum(*ratios)))
    shift = ops.clip(ops.cast(_FACTOR_BITS - exponent, "int32"), 1, 30)
    one = ops.ones((), dtype="int32")
    power = ops.cast(ops.left_shift(one, shift), "float32")
    sums = ops.left_shift(one, shift - 1)
    for x, unit, ratio in ((a, first, ratios[0]), (b, second, ratios[1])):
        codes = ops.cast(ops.round(x / unit), "int32")
        sums = sums + codes * ops.cast(ops.round(ratio * power), "int32")
    codes = ops.cast(ops.right_shift(sums, shift), "float32")
    total = a + b
    return straight_through(total, ops.where(known, codes * scale, total))


def straight_through(values: Any, rounded: Any) -> Any:
    """`rounded`, with the gradient of `values`."""
    # In this order the forward value is `rounded` to the last bit.
    return ops.stop_gradient(rounded) + (values - ops.stop_gradient(values))

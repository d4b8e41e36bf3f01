"""Products of two computed tensors, with the rounding of LiteRT's BATCH_MATMUL."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.integer_arithmetic import binary_places

# A sum of products in float32 may be this much smaller than it should be.
_FLOAT_NOISE = 5e-7


def batched_product(
    a: Any,
    b: Any,
    units: tuple[Any, Any],
    target: ActivationQuantizer,
) -> Any:
    """`a @ b` of quantized tensors, such that quantizing it gives the codes of LiteRT's kernel.

    XNNPACK has no integer kernel for it. LiteRT's own multiplies the sums of products of codes by a
    factor between 1/2 and 1, rounds, divides by a power of two and rounds again.

    Args:
        a: Shape (..., rows, features).
        b: Shape (..., features, columns).
        units: What a code of `a` and one of `b` is worth, None where one is not known.
        target: The quantizer that the product is for.

    Returns:
        A tensor of shape (..., rows, columns), whose gradients are those of the product. In an
        exported graph, or where a unit is not known or 0, the product itself.

    Reference: Jacob et al. 2018, section 2.2 and appendix B (`SaturatingRoundingDoublingHighMul`
    and `RoundingDivideByPOT`).
    """
    product = ops.matmul(a, b)
    # Ranges are fixed in an exported graph, whose kernel rounds by itself.
    if None in units or target.fixed_range is not None:
        return product
    rounded = rounded_twice(ops.cast(product, "float32"), units[0] * units[1], target.scale())
    return product + ops.stop_gradient(ops.cast(rounded, product.dtype) - product)


def rounded_twice(value: Any, unit: Any, target: Any) -> Any:
    """Round a product to the fraction of a code that LiteRT rounds it to first.

    Args:
        value: Float32 tensor of sums of products.
        unit: Float32 scalar, what one product of two codes is worth.
        target: Float32 scalar, what one code of the result is worth.

    Returns:
        A float32 tensor that rounds to LiteRT's code; `value` where a unit is not positive.
    """
    known = ops.logical_and(unit > 0, target > 0)
    ratio = ops.where(known, unit / ops.where(known, target, 1.0), 1.0)
    places = binary_places(ratio)
    fine = ops.where(known, target, 1.0) * ops.power(2.0, -places)
    code = value / fine
    # Half a fine step further from zero, where ties of the second rounding fall.
    margin = ops.where(places > 0, 0.5, 0.0)
    # Ties of the first rounding are common where the factor is a power of two.
    whole = ops.floor(ops.abs(code) * (1.0 + _FLOAT_NOISE) + 0.5)
    rounded = ops.sign(code) * (whole + margin) * fine
    return ops.where(known, rounded, value)

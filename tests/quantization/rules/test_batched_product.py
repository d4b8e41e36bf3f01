"""Products of two computed tensors round as LiteRT's integer arithmetic does."""

import math

import numpy as np
import pytest
from keras import ops

from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.rules.batched_product import batched_product, rounded_twice

RNG = np.random.default_rng(0)


def half_away(x):
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


def litert(sums, ratio):
    """The codes that LiteRT's fixed-point arithmetic makes of integer sums."""
    factor, exponent = math.frexp(ratio)
    multiplier = round(factor * 2**31)
    first = half_away(sums * 2 ** max(exponent, 0) * multiplier / 2**31)
    return half_away(first / 2 ** max(-exponent, 0))


@pytest.mark.parametrize("ratio", [0.877, 0.3131, 0.0107, 0.0050181, 1 / 128, 3e-4])
def test_codes_are_those_of_fixed_point_arithmetic(ratio):
    sums = RNG.integers(-round(127 / ratio), round(127 / ratio) + 1, 20_000)
    unit, target = np.float32(2e-4), np.float32(2e-4 / ratio)
    values = (sums * np.float64(unit)).astype("float32")
    found = ops.convert_to_numpy(rounded_twice(ops.convert_to_tensor(values), unit, target))
    expected = litert(sums, float(np.float64(unit) / np.float64(target)))
    codes = np.round(found / target)
    # Sums of less than 1 in 10,000 fall so near to a tie that float arithmetic cannot tell.
    assert np.mean(codes != expected) < 1e-4
    # Rounding once would differ in up to one code out of a hundred.
    once = half_away(sums * np.float64(unit) / np.float64(target))
    if 0.005 < ratio < 0.1 and ratio != 1 / 128:
        assert np.mean(once != expected) > 1e-3


def test_the_product_and_its_gradients_stay():
    a, b = (RNG.normal(size=shape).astype("float32") for shape in ((2, 3, 4), (2, 4, 5)))
    target = ActivationQuantizer()
    target(np.array([-6.0, 6.0], "float32"), training=True)
    rounded = ops.convert_to_numpy(batched_product(a, b, (0.01, 0.01), target))
    step = 12 / 255
    assert 0 < np.abs(rounded - a @ b).max() < step / 128
    for units in ((None, 0.01), (0.01, 0.0)):
        plain = ops.convert_to_numpy(batched_product(a, b, units, target))
        np.testing.assert_allclose(plain, a @ b, atol=2e-6)
    exported = ActivationQuantizer((-6.0, 6.0))
    plain = ops.convert_to_numpy(batched_product(a, b, (0.01, 0.01), exported))
    np.testing.assert_array_equal(plain, ops.convert_to_numpy(ops.matmul(a, b)))

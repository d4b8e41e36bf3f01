"""Scales of weights."""

import keras
import numpy as np
import pytest
from keras import ops

from tfcompress.quantization.power_of_two import (
    nearest_power_of_two,
    next_power_of_two,
    power_of_two_range,
)
from tfcompress.quantization.weight_scale import METHODS, fake_quant_to_scale, weight_scale

WEIGHT = np.random.default_rng(0).laplace(size=(3, 3, 16, 8)).astype("float32")


def scale_of(**settings):
    return np.asarray(ops.convert_to_numpy(weight_scale(WEIGHT, (-1,), **settings)))


def error(scale, bits):
    limit = 2 ** (bits - 1) - 1
    rounded = np.clip(np.round(WEIGHT / scale), -limit, limit) * scale
    return np.square(rounded - WEIGHT).sum(axis=(0, 1, 2))


def test_max_gives_the_largest_value_the_largest_code():
    np.testing.assert_allclose(
        scale_of(bits=4)[0, 0, 0], np.abs(WEIGHT).max(axis=(0, 1, 2)) / 7, rtol=2**-16
    )


@pytest.mark.parametrize("method", ["mse", "octav"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_comes_close_to_the_least_error(method, bits):
    whole = scale_of(bits=bits)
    best = np.min([error(whole * share, bits) for share in np.linspace(0.1, 1, 91)], axis=0)
    assert np.all(error(scale_of(bits=bits, method=method), bits) <= 1.12 * best)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axes", [(), (-1,), (-2, -1)])
def test_powers_of_two_and_empty_channels(method, axes):
    weight = WEIGHT * (np.arange(8) > 0)
    scale = ops.convert_to_numpy(weight_scale(weight, axes, 8, method, power_of_two=True))
    kept = {axis % 4 for axis in axes}
    assert scale.shape == tuple(n if i in kept else 1 for i, n in enumerate(WEIGHT.shape))
    np.testing.assert_allclose(np.log2(scale), np.round(np.log2(scale)), atol=1e-5)
    if axes == (-1,):
        assert scale[0, 0, 0, 0] == 1
        largest = np.abs(weight).max(axis=(0, 1, 2))[1:] / scale[0, 0, 0, 1:]
        if method == "max":
            assert np.all((largest <= 127.02) & (largest > 63.4))


def test_power_of_two_helpers():
    values = np.array([0.5, 0.50001, 0.51, 0.7, 0.72, 3.0], "float32")
    np.testing.assert_allclose(next_power_of_two(values), [0.5, 0.5, 1, 1, 1, 4])
    np.testing.assert_allclose(nearest_power_of_two(values), [0.5, 0.5, 0.5, 0.5, 1, 4])


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-0.999, 1.0), (-2.0, 0.0)])
def test_power_of_two_range_holds_the_range_in_whole_codes(low, high):
    left, right = (float(end) for end in power_of_two_range(np.float32(low), np.float32(high), 8))
    scale = (right - left) / 255
    assert np.log2(scale) == pytest.approx(round(np.log2(scale)))
    assert left / scale == pytest.approx(round(left / scale))
    assert left <= low + 1e-3 * scale
    assert right >= high - 1e-3 * scale


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="uses a gradient tape")
def test_gradient_falls_off_where_values_are_clipped():
    import tensorflow as tf

    weight = tf.Variable([0.0, 0.3, -0.6, 2.0, -4.0])
    with tf.GradientTape() as tape:
        rounded = fake_quant_to_scale(weight, 0.1, bits=4)  # limit 0.7
        total = tf.reduce_sum(rounded)
    np.testing.assert_allclose(rounded, [0, 0.3, -0.6, 0.7, -0.7], atol=1e-6)
    np.testing.assert_allclose(tape.gradient(total, weight), [1, 1, 1, 0.35, 0.175], rtol=1e-5)

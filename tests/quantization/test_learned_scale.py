"""The gradients of learned scales and ranges."""

import keras
import numpy as np
import pytest

from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.fake_quant import fake_quant_activation
from tfcompress.quantization.learned_scale import learned_value, lsq_quantize, pact_clip

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="uses a gradient tape"
)

X = np.array([-2.0, -0.5, -0.14, 0.0, 0.26, 0.9, 3.0], "float32")


def gradients(function, scale):
    import tensorflow as tf

    x, scale = tf.Variable(X), tf.Variable(scale)
    with tf.GradientTape(persistent=True) as tape:
        y = function(x, scale)
        total = tf.reduce_sum(y)
    return np.array(y), np.array(tape.gradient(total, x)), np.array(tape.jacobian(y, scale))


def test_lsq_gradients_are_those_of_the_paper():
    y, of_x, of_scale = gradients(lambda x, s: lsq_quantize(x, s, -4.0, 5.0), 0.2)
    np.testing.assert_allclose(y, [-0.8, -0.4, -0.2, 0, 0.2, 0.8, 1.0], atol=1e-6)
    np.testing.assert_allclose(of_x, [0, 1, 1, 1, 1, 1, 0], atol=1e-6)
    inside = np.round(X / np.float32(0.2)) - X / np.float32(0.2)
    expected = np.where(X / 0.2 < -4, -4, np.where(X / 0.2 > 5, 5, inside))
    np.testing.assert_allclose(of_scale, expected, atol=1e-5)


def test_pact_gradient_is_that_of_clipped_values_only():
    y, of_x, of_scale = gradients(lambda x, s: pact_clip(x, s, -4.0, 5.0), 0.2)
    np.testing.assert_allclose(y, np.clip(X, -0.8, 1.0), atol=1e-6)
    np.testing.assert_allclose(of_x, [0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(of_scale, [-4, 0, 0, 0, 0, 0, 5])


def test_a_step_along_the_logarithm_moves_the_value_as_a_step_of_its_own_would():
    import tensorflow as tf

    growth, rate, strength = tf.Variable(0.3), 1e-4, 0.25
    with tf.GradientTape() as tape:
        value = learned_value(0.05, growth, strength)
        loss = 7.0 * value
    before = float(value)
    growth.assign_sub(rate * tape.gradient(loss, growth))
    after = float(learned_value(0.05, growth, strength))
    assert after - before == pytest.approx(-rate * strength * 7.0, rel=0.02)


@pytest.mark.parametrize("learned", ["lsq", "pact"])
def test_values_are_those_of_the_exported_operation(learned):
    import tensorflow as tf

    quantizer = ActivationQuantizer(learned=learned)
    x = tf.constant(np.random.default_rng(0).normal(size=(16, 32)).astype("float32"))
    quantizer(x, training=True)  # the first batch gives the start
    start = quantizer.range
    quantizer.growth.assign(np.log(0.5))
    with tf.GradientTape() as tape:
        y = quantizer(x, training=True)
        loss = tf.reduce_sum(tf.square(y - x))
    low, high = quantizer.range
    assert (high - low) == pytest.approx(0.5 * (start[1] - start[0]), rel=1e-5)
    np.testing.assert_array_equal(y, fake_quant_activation(x, low, high))
    np.testing.assert_array_equal(quantizer(x), y)
    # The range clips too much: growing it lowers the loss.
    assert float(tape.gradient(loss, quantizer.growth.value)) < 0


def test_symmetric_learned_range_keeps_its_zero_point():
    quantizer = ActivationQuantizer(learned="lsq", symmetric=True)
    x = np.random.default_rng(0).normal(size=(16, 32)).astype("float32")
    quantizer(x, training=True)
    quantizer.growth.assign(-0.2)
    quantizer(x, training=True)
    low, high = quantizer.range
    assert low / high == pytest.approx(-128 / 127, rel=1e-5)


def test_gradient_descent_moves_a_pact_range_as_one_of_its_own():
    import tensorflow as tf

    quantizer = ActivationQuantizer(learned="pact")
    x = tf.constant(np.random.default_rng(0).uniform(0, 4, (16, 32)).astype("float32"))
    quantizer(x, training=True)
    quantizer.growth.assign(np.log(0.5))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(x, training=True))
    before = quantizer.range[1]
    clipped, rate = int(np.sum(x > before)), 1e-5
    quantizer.growth.assign_sub(rate * tape.gradient(loss, quantizer.growth.value))
    quantizer(x, training=True)
    # Each clipped value has the gradient 1 with respect to the end of the range.
    assert quantizer.range[1] - before == pytest.approx(-rate * clipped, rel=0.02)

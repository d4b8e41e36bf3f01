"""The arithmetic of fake quantization."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from tfcompress.quantization.fake_quant import fake_quant_activation, fake_quant_weight


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_weights_land_on_one_symmetric_grid_a_channel(bits, axes):
    weight = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    rounded = ops.convert_to_numpy(fake_quant_weight(weight, axes, bits))
    kept = {a % 4 for a in axes}
    reduced = tuple(a for a in range(4) if a not in kept)
    scale = np.abs(weight).max(axis=reduced, keepdims=True) / (2 ** (bits - 1) - 1)
    codes = rounded / scale
    # A scale has 16 significant bits.
    np.testing.assert_allclose(codes, np.round(codes), rtol=2**-16, atol=1e-4)
    assert np.abs(np.round(codes)).max() == 2 ** (bits - 1) - 1
    assert np.abs(rounded - weight).max() <= scale.max() / 2 * 1.0001


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32)))
def test_quantizing_twice_changes_nothing_and_zero_stays_zero(weight):
    once = ops.convert_to_numpy(fake_quant_weight(weight, (-1,)))
    twice = ops.convert_to_numpy(fake_quant_weight(once, (-1,)))
    # A scale recomputed from the rounded maximum may differ in the last bit.
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-30)
    assert np.all(once[weight == 0] == 0)


def test_all_zero_channel_stays_zero():
    weight = np.stack([np.zeros(4), np.arange(4.0)], axis=-1).astype("float32")
    rounded = ops.convert_to_numpy(fake_quant_weight(weight, (-1,)))
    assert np.all(rounded[:, 0] == 0)
    assert np.all(np.isfinite(rounded))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="uses a gradient tape")
def test_weight_gradient_passes_straight_through():
    import tensorflow as tf

    weight = tf.Variable(np.random.default_rng(0).normal(size=(6, 2)).astype("float32"))
    upstream = np.random.default_rng(1).normal(size=(6, 2)).astype("float32")
    with tf.GradientTape() as tape:
        loss = ops.sum(fake_quant_weight(weight, (-1,)) * upstream)
    np.testing.assert_allclose(tape.gradient(loss, weight), upstream, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-2.5, 0.0), (0.0, 0.0)])
def test_activation_grid_has_a_zero_and_256_steps(low, high):
    x = np.linspace(-8, 8, 4001).astype("float32")
    y = ops.convert_to_numpy(fake_quant_activation(ops.convert_to_tensor(x), low, high))
    assert len(np.unique(y)) <= 256
    assert 0.0 in y
    if high > low:
        step = (high - low) / 255
        inside = (x > low + step) & (x < high - step)
        assert np.abs(y - x)[inside].max() <= step / 2 * 1.001

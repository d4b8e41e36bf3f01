"""Bias correction and AdaRound."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.post_training import quantize_post_training
from tfcompress.quantization.post_training.rounding import Rounding

FAST = {"name": "adaround", "iterations": 120, "learning_rate": 0.03, "regularization": 100}


def answers(model, x):
    return keras.ops.convert_to_numpy(model(x))


def error(model, quantized, x):
    return float(np.square(answers(model, x) - answers(quantized, x)).mean())


def test_bias_correction_takes_out_the_mean_error(chain, samples):
    model = chain()
    plain = quantize_post_training(model, "w3a8", samples, algorithms=[])
    corrected = quantize_post_training(model, "w3a8", samples, algorithms=["bias_correction"])
    expected = answers(model, samples)
    before, after = (
        np.abs((answers(done.model, samples) - expected).mean(axis=0))
        for done in (plain, corrected)
    )
    # What is left is the rounding of the output itself.
    assert after.max() < 0.1 * before.max()
    assert error(model, corrected.model, samples) < 0.8 * error(model, plain.model, samples)
    assert [row.layer for row in corrected.outcomes[0].layers] == [
        "conv", "depthwise", "pointwise", "hidden", "head",
    ]  # fmt: skip


def test_adaround_is_better_than_nearest_and_keeps_scales_zeros_and_codes(chain, samples):
    model = chain()
    kernel = model.get_layer("hidden").kernel
    pruned = np.random.default_rng(2).random(kernel.shape) < 0.5
    kernel.assign(np.where(pruned, 0, keras.ops.convert_to_numpy(kernel)))
    others = np.random.default_rng(1).normal(size=samples.shape).astype("float32")
    scheme = {"weight_bits": 3, "weight_range": "mse"}
    before = quantize_post_training(model, scheme, samples, algorithms=[])
    after = quantize_post_training(model, scheme, samples, algorithms=[FAST])
    assert error(model, after.model, others) < 0.7 * error(model, before.model, others)
    rows = {row.layer: row.figures for row in after.outcomes[0].layers}
    assert all(figures["decibels"] >= 0 for figures in rows.values())
    assert rows["hidden"]["decibels"] > 1
    for old, new in zip(wrappers_of(before.model), wrappers_of(after.model), strict=True):
        (old_grid,), (new_grid,) = old.kernel_grids(), new.kernel_grids()
        np.testing.assert_allclose(new_grid.scales, old_grid.scales, rtol=1e-6)
        assert np.abs(new_grid.codes - old_grid.codes).max() <= 1
        (kernel, value), *_ = new.quantized_kernels()
        np.testing.assert_allclose(value, kernel, atol=1e-6)
    hidden = next(w for w in wrappers_of(after.model) if w.name == "hidden")
    assert not keras.ops.convert_to_numpy(hidden.layer.kernel)[pruned].any()


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_the_largest_weight_of_each_scale_is_not_free(granularity):
    codes = np.array([[0.0, 7.0, -3.4], [0.2, -6.5, 7.0], [2.6, 1.5, 1.5]])
    scale = np.full((1, 3) if granularity == "per_channel" else (1, 1), 0.5)
    rounding = Rounding.of(codes, scale, bits=4)
    expected = [[False, False, True], [True, True, False], [False, True, True]]
    if granularity == "per_tensor":
        expected[2][0] = True
    np.testing.assert_array_equal(rounding.free, expected)
    np.testing.assert_array_equal(rounding.nearest, np.rint(codes) * 0.5)
    up = rounding.values(np.ones((3, 3)))
    assert up[0, 2] == -1.5
    assert up[2, 1] == 1.0


def test_recurrent_and_separable_layers_are_rounded_and_others_named():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8), name="sequence")
    x = layers.SeparableConv1D(8, 3, padding="same", name="separable")(inputs)
    shared = layers.Dense(8, name="shared")
    x = layers.LSTM(8, name="memory")(shared(shared(x)))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    data = np.random.default_rng(0).normal(size=(32, 6, 8)).astype("float32")
    done = quantize_post_training(
        model, "w3a8", data, algorithms=[{**FAST, "iterations": 40}, "bias_correction"]
    )
    rounded, corrected = done.outcomes
    assert [row.layer for row in rounded.layers if not row.skipped] == [
        "separable", "memory", "head",
    ]  # fmt: skip
    assert {row.skipped for row in rounded.layers if row.layer == "shared"} == {"is called 2 times"}
    assert "not memory: has no bias" in str(corrected)

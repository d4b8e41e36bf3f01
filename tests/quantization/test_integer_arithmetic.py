"""In evaluation the model computes what LiteRT's integers compute, to the bit."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.quantization.integer_arithmetic import TwoRoundings, add, requantize, short_scale


def _floats(low, high, size, seed=0):
    return np.random.default_rng(seed).uniform(low, high, size).astype("float32")


def _numpy(x):
    return ops.convert_to_numpy(x)


def test_codes_times_a_short_scale_are_exact():
    scale = _floats(1e-6, 10.0, 10_000)
    short = _numpy(short_scale(scale))
    np.testing.assert_allclose(short, scale, rtol=2.0**-16)
    for code in (1, 127, 255):
        np.testing.assert_array_equal(np.float64(short) * code, np.float32(short * code))
        np.testing.assert_array_equal(np.float32(short * code) / np.float32(code), short)


def test_sums_are_rounded_once_in_float32():
    unit, scale = _floats(1e-5, 1e-4, 16), np.float32(0.018)
    sums = np.random.default_rng(1).integers(-40_000, 40_000, (20_000, 16))
    noisy = (sums + _floats(-0.2, 0.2, sums.shape)) * unit
    expected = np.rint(sums.astype("float32") * (unit / scale)) * scale
    np.testing.assert_array_equal(_numpy(requantize(noisy, unit, scale)), expected)
    # Without a scale values pass.
    some = np.where(np.arange(16) < 8, unit, np.float32(0))
    found = _numpy(requantize(noisy, some, scale))
    np.testing.assert_array_equal(found[:, 8:], noisy[:, 8:])
    np.testing.assert_array_equal(found[:, :8], expected[:, :8])


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("finer", [1, 4])
def test_kernels_of_packed_weights_round_twice(away, finer):
    """As `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT` (Jacob et al. 2018) do."""
    # Of scales that make a factor of few bits, so that nothing is lost in float32.
    unit, scale = np.float32(3 * 2.0**-14), np.float32(2.0**-6)
    sums = np.random.default_rng(1).integers(-40_000, 40_000, 100_000)
    # 3 / 256 is 0.75 / 2**6; of finer codes there are more, and each is worth less.
    places = 6 + int(np.log2(finer))
    fine = 2 * (sums * finer) * 3 + 4 >> 3
    half = (1 << (places - 1)) - ((fine < 0) & away)
    expected = (fine + half >> places) * scale
    found = requantize(sums.astype("float32") * unit, unit, scale, TwoRoundings(finer, away))
    np.testing.assert_array_equal(_numpy(found), expected)
    once = _numpy(requantize(sums.astype("float32") * unit, unit, scale))
    assert np.mean(once != expected) > 1e-3


def test_addition_has_factors_of_21_bits():
    scales, scale = (np.float32(0.0123), np.float32(0.0457)), np.float32(0.0391)
    codes = np.random.default_rng(2).integers(-255, 256, (2, 50_000))
    a, b = (c.astype("float32") * s for c, s in zip(codes, scales, strict=True))
    # The larger ratio is in [1, 2), so its factor has 20 bits behind the point.
    factors = [int(np.rint(np.float64(np.float32(s / scale)) * 2**20)) for s in scales]
    total = codes[0] * factors[0] + codes[1] * factors[1] + 2**19
    np.testing.assert_array_equal(
        _numpy(add(a, b, scales, scale)), (total >> 20).astype("float32") * scale
    )
    np.testing.assert_array_equal(_numpy(add(a, b, scales, np.float32(0))), a + b)


def _network():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Add()([x, y, layers.Conv2D(8, 1)(x)]) + y
    x = layers.AveragePooling2D(2)(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(layers.BatchNormalization()(x))
    x = layers.Conv1D(6, 3, activation="tanh")(layers.Reshape((256, 8))(x))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for number, variable in enumerate(layer.variables):
                variable.assign(_floats(0.5, 1.5, variable.shape, number))
    return model


# The factors of packed kernels have 7 bits more than float32, which decides a tie now and then.
@pytest.mark.parametrize(("scheme", "off"), [("int8", 0.0), ("w4a8", 0.005)])
def test_the_file_gives_the_same_integers_through_a_deep_network(scheme, off, tmp_path):
    x = np.random.default_rng(0).normal(0, 1, (256, 16, 16, 3)).astype("float32")
    qat = tfc.quantize_aware(_network(), scheme, calibration=x, verbose=False)
    saved = tmp_path / "qat.keras"
    qat.save(saved)
    loaded = keras.models.load_model(saved)
    artifact = tfc.export(loaded, tmp_path / "model.tflite", calibration=x)
    assert artifact.fidelity.off_fraction <= off, artifact.fidelity


def test_evaluation_has_gradients():
    qat = tfc.quantize_aware(_network(), "int8", calibration=np.ones((8, 16, 16, 3)), verbose=False)
    qat.trainable = False
    inputs = keras.Variable(_floats(-1, 1, (4, 16, 16, 3)))
    head = keras.Sequential([layers.Dense(2)])
    head.build((None, 10))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.sum(ops.square(head(qat(inputs.value, training=False))))
        assert np.any(_numpy(tape.gradient(loss, inputs.value)) != 0)

"""Biases are rounded in training as LiteRT stores them, so that its integers come out the same."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.quantization.bias_grid import round_bias, told_apart


def _normal(deviation):
    return keras.initializers.RandomNormal(stddev=deviation, seed=3)


def _network():
    """Biases before, in and without batch normalization, of every kind of linear layer."""
    keras.utils.set_random_seed(1)
    bias = {"bias_initializer": _normal(0.5)}
    inputs = keras.Input((10, 10, 3))
    x = layers.Rescaling(1.7, -0.3)(inputs)
    x = layers.Conv2D(12, 3, padding="same", name="folded", **bias)(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, **bias)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(center=False)(x))
    x = layers.MaxPooling2D()(x)
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="plain", **bias)(x)
    x = layers.SeparableConv2D(6, 3, name="separable", **bias)(x)
    x = layers.Dense(5, bias_initializer=keras.initializers.Constant(0.3))(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                low = 0.3 if "variance" in variable.path else -1.0
                variable.assign(random.uniform(low, 1.5, variable.shape))
    return model


def test_the_file_computes_the_same_integers(tmp_path):
    model = _network()
    x = np.random.default_rng(1).random((128, 10, 10, 3)).astype("float32")
    qat = tfc.quantize_aware(model, "int8", calibration=x, verbose=False)
    saved = tmp_path / "qat.keras"
    qat.save(saved)
    loaded = keras.models.load_model(saved)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), qat.predict(x, verbose=0))

    artifact = tfc.export(loaded, tmp_path / "model.tflite", calibration=x, tolerance=1)

    assert artifact.float_islands == []
    # Seven layers deep: with biases left as they are, 5 % of the outputs differ.
    assert artifact.fidelity.off_fraction == 0, artifact.fidelity


def test_exported_biases_are_whole_steps_whatever_the_weights_bits():
    # The converter rounds to a finer grid first; what lies on the coarse one stays there.
    qat = tfc.quantize_aware(_network(), "w4a8", calibration=np.ones((8, 10, 10, 3)), verbose=False)
    for name in ("plain", "separable"):
        wrapper = qat.get_layer(name)
        codes = wrapper.deployed_bias() / keras.ops.convert_to_numpy(wrapper.accumulator_unit())
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-2)


def test_bias_of_a_folded_convolution_is_rounded_with_the_normalization():
    qat = tfc.quantize_aware(_network(), "int8", calibration=np.ones((8, 10, 10, 3)), verbose=False)
    convolution, normalization = qat.get_layer("folded"), qat.get_layer("bn")
    assert convolution.bias_folds
    assert normalization.input_source() is convolution
    assert qat.get_layer("alone").source_unit() is not None
    assert not qat.get_layer("plain").bias_folds


def test_a_layer_that_reads_two_ranges_keeps_its_bias():
    shared = layers.Dense(4, name="shared", bias_initializer=_normal(1.0))
    inputs = keras.Input((6,))
    x = layers.Dense(6, activation="relu")(inputs)
    model = keras.Model(inputs, shared(inputs) + shared(x))
    qat = tfc.quantize_aware(model, "int8", calibration=np.ones((8, 6)), verbose=False)
    assert qat.get_layer("shared").accumulator_unit() is None


def test_channels_without_weights_have_no_grid():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, bias_initializer=_normal(1.0))])
    kernel, bias = model.get_weights()
    kernel[:, 1] = 0.0
    model.set_weights([kernel, bias])
    qat = tfc.quantize_aware(model, "int8", calibration=np.eye(6) * 2, verbose=False)
    wrapper = next(layer for layer in qat.layers if hasattr(layer, "accumulator_unit"))
    unit = keras.ops.convert_to_numpy(wrapper.accumulator_unit())
    assert unit[1] == 0
    assert np.all(unit[[0, 2, 3]] > 0)


def test_round_bias():
    bias = keras.ops.convert_to_tensor([0.26, -0.26, 7.3, 0.0])
    unit = keras.ops.convert_to_tensor([0.1, 0.1, 0.0, 0.1])
    rounded = keras.ops.convert_to_numpy(round_bias(bias, unit))
    np.testing.assert_allclose(rounded, [0.3, -0.3, 7.3, 0.0], atol=1e-7)


@pytest.mark.parametrize("bias", [[0.3, 0.3, 0.3], [0.0, 0.0], [0.1, 0.2], [0.5]])
def test_told_apart_changes_equal_values_by_the_least_there_is(bias):
    bias = np.asarray(bias, "float32")
    apart = told_apart(bias)
    np.testing.assert_allclose(apart, bias, rtol=2e-7)
    assert len(bias) == 1 or not bias[0] or len(set(apart)) > 1

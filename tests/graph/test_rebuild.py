"""New models out of a flat graph."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.graph import flatten
from tfcompress.graph.rebuild import LayerCopies, rebuild


def test_operations_of_equal_names_are_told_apart():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.ReLU(name="relu")(layers.ReLU(name="relu_1")(inputs)))

    def call(node, args, kwargs):
        # As Keras names a new layer in a process in which nothing but this model was loaded.
        copy = layers.ReLU(name=node.operation.name)
        return layers.ReLU(name="relu_1")(copy(*args, **kwargs))

    built = rebuild(flatten(model), call)
    names = [layer.name for layer in built.layers]
    assert len(set(names)) == len(names) == 5
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], "float32")
    np.testing.assert_array_equal(built(x), np.maximum(x, 0))


def adapted():
    """A model with what it learned from data in every place that Keras has for it."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(10, 2, (256, 6)).astype("float32")
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(x)
    inputs = keras.Input((6,), name="x")
    a = layers.Dense(16, activation="relu", name="hidden")(normalization(inputs))
    return keras.Model(inputs, layers.Dense(3, name="scores")(a)), x


def copied(model):
    return LayerCopies(flatten(model)).model()


def shrunk_by_nothing(model):
    return tfc.shrink(model, macs=1.0, verbose=False)


@pytest.mark.parametrize("copy", [copied, tfc.strip, shrunk_by_nothing])
def test_copies_of_adapted_normalization_compute_the_same(copy):
    model, x = adapted()
    np.testing.assert_array_equal(copy(model)(x), model(x))


def test_adapted_normalization_survives_training_aware_of_quantization_and_export(tmp_path):
    model, x = adapted()
    qat = tfc.quantize_aware(model, calibration=x, verbose=False)
    expected = keras.ops.convert_to_numpy(model(x))
    outputs = qat.predict(x, verbose=0)
    assert np.abs(outputs - expected).max() < 0.03 * np.abs(expected).max()
    qat.save(tmp_path / "qat.keras")
    loaded = keras.models.load_model(tmp_path / "qat.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), outputs)
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=x)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 1


@pytest.mark.parametrize("mode", ["multi_hot", "tf_idf"])
def test_copies_of_lookups_have_the_vocabulary(mode):
    words = layers.TextVectorization(output_mode=mode, name="words")
    words.adapt(["a b c", "b c", "c d"])
    inputs = keras.Input((1,), dtype="string", name="text")
    model = keras.Model(inputs, layers.Dense(1)(words(inputs)))
    text = keras.ops.convert_to_tensor([["a b"], ["c d"], ["d e"]])
    for copy in (copied(model), tfc.strip(model)):
        np.testing.assert_array_equal(copy(text), model(text))


def test_frozen_layers_inside_a_layer_stay_frozen_in_the_copy():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    inner.layers[0].trainable = False
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.TimeDistributed(inner)(inputs))
    for copy in (copied(model), tfc.strip(model)):
        assert len(copy.trainable_variables) == len(model.trainable_variables) == 2

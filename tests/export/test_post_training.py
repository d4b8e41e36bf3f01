"""Conversions by tfcompress' own post-training quantization, and their diagnosis."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.search.diagnosis import diagnose

SCHEMES = {"default": "int8", "hidden": {"weight_bits": 4, "weight_range": "mse"}}
ALGORITHMS = [
    "cross_layer_equalization",
    {"name": "adaround", "iterations": 60, "learning_rate": 0.05, "regularization": 100},
    "bias_correction",
]


@pytest.fixture(scope="module")
def images():
    """Images of different brightness and colour: averages of noise alone would all be the same."""
    rng = np.random.default_rng(0)
    colours = rng.normal(size=(96, 1, 1, 3))
    return (colours + 0.5 * rng.normal(size=(96, 8, 8, 3))).astype("float32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(48, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(5, name="head")(x), name="network")
    scale = np.exp(np.linspace(-2, 2, 8)).astype("float32")
    model.get_layer("bn").gamma.assign(scale)
    model.get_layer("hidden").kernel.assign(
        keras.ops.convert_to_numpy(model.get_layer("hidden").kernel) / scale[:, None]
    )
    return model


@pytest.fixture(scope="module")
def artifact(network, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "model.tflite"
    return tfc.convert(network, path, SCHEMES, images, algorithms=ALGORITHMS)


def test_the_file_is_the_quantized_model(network, images, artifact):
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 2
    assert set(artifact.weight_bytes) >= {"int4", "int8"}
    assert [note.split(":")[0] for note in artifact.notes[:4]] == [
        "cross_layer_equalization", "adaround", "bias_correction",
        "Against the float model on 96 calibration samples",
    ]  # fmt: skip
    assert "SQNR" in str(artifact)
    assert tfc.Artifact.load(artifact.path) == artifact
    expected = network(images).numpy()
    noise = LiteRTModel(artifact).predict(images) - expected
    signal = expected - expected.mean(axis=0)
    assert 10 * np.log10(np.square(signal).sum() / np.square(noise).sum()) > 20


def test_equalization_reached_the_file(artifact):
    interpreter = Interpreter(str(artifact.path))
    scales = {
        tuple(details["shape"]): details["quantization_parameters"]["scales"]
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.int8 and len(details["quantization_parameters"]["scales"]) > 1
    }
    # The unequal factors of the normalization are gone from the convolution.
    assert scales[8, 3, 3, 3].max() < 12 * scales[8, 3, 3, 3].min()


def test_diagnosis_names_the_layer_and_tries_a_remedy(network, images, artifact):
    found = diagnose(network, artifact, images, SCHEMES, algorithms=["cross_layer_equalization"])
    assert set(found.gains) == {"conv", "hidden", "head"}
    assert found.remedy.layer == next(iter(found.gains)) == "hidden"
    assert found.remedy.change == found.remedy.scheme["hidden"] == "int8"
    assert found.remedy.score.distance.sqnr > found.score.distance.sqnr + 3
    text = str(found)
    assert "Tried: 'hidden' in int8: SQNR" in text
    assert "same class" in text
    assert found.layers.worst is not None
    assert found.to_dict()["score"]["bytes"] == artifact.bytes


def test_four_bit_weights_in_a_float_file(images, tmp_path):
    keras.utils.set_random_seed(1)
    first = layers.Conv2D(8, 3, activation="relu")
    stack = [keras.Input((8, 8, 3)), first, layers.Flatten(), layers.Dense(20)]
    network = keras.Sequential(stack)
    artifact = tfc.convert(network, tmp_path / "model.tflite", "w4", images)
    # The convolution has fewer weights than is worth an operator.
    assert artifact.weight_bytes["int4"] == 288 * 20 // 2
    assert artifact.weight_bytes["float32"] == 4 * (3 * 9 * 8 + 8)
    assert artifact.ops["DEQUANTIZE"] == 1
    assert artifact.bytes < 6000
    assert artifact.fidelity.sqnr > 15
    assert "no less memory" in artifact.notes[0]
    small = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 1)])
    with pytest.raises(ValueError, match="nothing to store in 4 bits"):
        tfc.convert(small, tmp_path / "model.tflite", "w4", images)


def test_bad_combinations(network, images, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"'dynamic' is made by TensorFlow's converter.*effort"):
        tfc.convert(network, path, "dynamic", images, effort="best")
    with pytest.raises(ValueError, match="Did you mean 'w4a8'"):
        tfc.convert(network, path, "w4a9", images)
    with pytest.raises(ValueError, match="`calibration`: 100 to 500"):
        tfc.convert(network, path, "w4a8")
    with pytest.raises(ValueError, match=r"`io` must be one of.*'int16'"):
        tfc.convert(network, path, "w4a8", images, io="int16")
    (tmp_path / "saved").mkdir()
    with pytest.raises(ValueError, match="need the layers of a Keras model"):
        tfc.convert(tmp_path / "saved", path, "w4a8", images)
    with pytest.raises(FileNotFoundError, match=r"no\.keras"):
        tfc.convert(tmp_path / "no.keras", path, "w4a8", images)
    with pytest.raises(ValueError, match="integer activations of 8 bits"):
        diagnose(network, None, images, "float16")
    assert not path.exists()

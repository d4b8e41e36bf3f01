"""The networks that a recipe can name, and getting a model in the other ways."""

import numpy as np
import pytest

from tfcompress.recipe import Recipe, architectures
from tfcompress.recipe.model_source import check_model, load_model, read_model
from tfcompress.recipe.pipeline import check_names
from tfcompress.recipe.schema import ModelSection


def test_names():
    assert architectures.names() == ["digits_cnn", "mnist_cnn", "resnet8"]


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    # By hand: digits_cnn is 9·32+32 + 4·32 + 9·32·64+64 + 4·64 + 1024·64+64 + 64·10+10;
    # 78,666 is the count of MLPerf Tiny's reference.
    [
        ("digits_cnn", (8, 8, 1), 85_450),
        ("mnist_cnn", (28, 28, 1), 114_314),
        ("resnet8", (32, 32, 3), 78_666),
    ],
)
def test_parameters_and_probabilities(name, shape, parameters):
    model = architectures.build(name, shape, 10)
    assert model.count_params() == parameters
    outputs = model.predict(np.ones((2, *shape), "float32"), verbose=0)
    np.testing.assert_allclose(outputs.sum(1), 1.0, atol=1e-5)


def test_arguments_reach_the_builder():
    model = architectures.build("digits_cnn", (8, 8, 1), 3, {"filters": [4], "units": 5})
    assert model.get_layer("conv1").filters == 4
    assert model.get_layer("hidden").units == 5
    assert model.output_shape == (None, 3)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'resnet8'\? Known: .* Received: 'resnet9'"):
        architectures.check("resnet9", {})


def test_an_unknown_argument_names_the_known_ones():
    with pytest.raises(ValueError, match=r"takes the arguments filters, units. Received: 'width'"):
        architectures.check("digits_cnn", {"width": 2})


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="registered already: 'resnet8'"):
        architectures.register("resnet8")(lambda shape, classes: None)


def test_a_model_file_is_read_with_its_weights(tmp_path, digits, tiny_cnn):
    model = tiny_cnn()
    model.save(tmp_path / "m.keras")
    again = load_model(ModelSection(path=str(tmp_path / "m.keras")), digits)
    for a, b in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_function_builds_the_model(monkeypatch, digits, tmp_path):
    (tmp_path / "my_networks.py").write_text(
        "import keras\n"
        "def linear(classes):\n"
        "    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]\n"
        "    return keras.Sequential([*layers, keras.layers.Dense(classes)])\n"
        "def unbuilt():\n"
        "    return keras.Sequential([keras.layers.Dense(3)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    section = ModelSection(function="my_networks:linear", arguments={"classes": 7})
    assert load_model(section, digits).output_shape == (None, 7)
    with pytest.raises(ValueError, match=r"must return a built Keras model; call `model.build"):
        load_model(ModelSection(function="my_networks:unbuilt"), digits)
    with pytest.raises(ValueError, match="has no function 'missing'"):
        check_model(ModelSection(function="my_networks:missing"))
    with pytest.raises(ValueError, match="cannot be imported"):
        check_model(ModelSection(function="no_such_module_here:f"))


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file .* Received: .*gone\.keras"):
        check_model(ModelSection(path=str(tmp_path / "gone.keras")))
    with pytest.raises(ValueError, match=r"ends in \.keras or \.h5"):
        read_model(tmp_path / "model.onnx")
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match=r"Keras cannot read the model in .*broken\.keras"):
        read_model(tmp_path / "broken.keras")


def test_criteria_that_measure_are_checked_before_there_are_data():
    values = {
        "version": 1,
        "name": "channels",
        "data": {"source": "digits"},
        "model": {"architecture": "digits_cnn"},
        "train": {"epochs": 1},
        "shrink": {"macs": 0.5, "criterion": "taylor"},
    }
    check_names(Recipe.load(values))
    values["shrink"]["criterion"] = "tailor"
    with pytest.raises(ValueError, match="Did you mean 'taylor'"):
        check_names(Recipe.load(values))

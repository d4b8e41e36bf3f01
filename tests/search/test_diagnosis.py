"""Diagnosis of files whose source is no Keras model."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.search.diagnosis import diagnose

X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A SavedModel with an operation that stays float, and a channel that costs precision."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(6, 3, name="second")(keras.ops.elu(x - 1))
    model = keras.Model(image, layers.Dense(5, name="head")(layers.Flatten()(x)))
    folder = tmp_path_factory.mktemp("source") / "saved_model"
    model.export(folder, verbose=False)
    return folder


def test_operators_of_a_saved_model_are_compared(source, tmp_path):
    artifact = tfc.convert(source, tmp_path / "m.tflite", calibration=X)
    found = diagnose(source, artifact, X, limit=16)
    rows = {row.operator: row for row in found.layers.rows}
    assert [row.skipped for row in found.layers.rows] == [""] * len(found.layers.rows)
    assert {"CONV_2D", "ELU", "FULLY_CONNECTED"} <= set(rows)
    assert rows["ELU"].max_quanta is None
    assert 0 < rows["FULLY_CONNECTED"].max_quanta < 8
    assert 20 < rows["FULLY_CONNECTED"].sqnr < 60
    assert [row["type"] for row in found.floats] == ["ELU"]
    assert found.samples == 16
    assert (found.gains, found.remedy) == ({}, None)
    text = str(found)
    assert "Only the layers of a Keras model" in text
    assert "(ELU): the converter has no integer form" in text
    assert found.to_dict()["score"]["bytes"] == artifact.bytes
    # A float file is a reference as well.
    reference = tfc.convert(source, tmp_path / "float.tflite", "float32")
    again = tfc.fidelity(str(reference.path), artifact, X, limit=16)
    assert again.rows == found.layers.rows
    exact = tfc.fidelity(str(reference.path), reference, X, limit=4)
    assert {row.sqnr for row in exact.rows} == {None}

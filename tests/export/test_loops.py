"""Recurrent layers as LiteRT's own operator, or unrolled beside it."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.export import convert

SEQUENCES = np.random.default_rng(0).normal(size=(64, 12, 6)).astype("float32")
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


@pytest.fixture(scope="module")
def model():
    """Concatenations, which give the operator's outputs another scale, and what cannot be fused."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 6))
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True), name="both")(inputs)
    x = layers.Concatenate()([layers.LSTM(8, name="last")(x), layers.Dense(2)(layers.Flatten()(x))])
    y = layers.GRU(4, name="gru")(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([x, y])))


def test_lstm_layers_become_operators(model, tmp_path):
    artifact = convert(model, tmp_path / "m.tflite", calibration=SEQUENCES, fused_lstm=True)
    assert artifact.ops[LSTM] == 3
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 8
    notes = "\n".join(artifact.notes)
    assert "reset_all_variables" in notes
    assert "'gru' is not fused: LiteRT has one operator for LSTM layers only" in notes
    assert "quantize a loop: gru. " in notes
    assert not model.get_layer("gru").unroll
    unrolled = convert(model, tmp_path / "m.tflite", calibration=SEQUENCES)
    assert LSTM not in unrolled.ops
    assert artifact.bytes < unrolled.bytes / 2


def test_no_loop_is_left_beside_the_operator(model, tmp_path):
    """LiteRT computes garbage with both in one file."""
    artifact = convert(model, tmp_path / "m.tflite", "float32", SEQUENCES, fused_lstm=True)
    assert artifact.ops[LSTM] == 3
    assert "WHILE" not in artifact.ops
    artifact = convert(model, tmp_path / "m.tflite", "float32", SEQUENCES)
    assert "WHILE" in artifact.ops


def test_what_the_operator_cannot_compute_is_unrolled(tmp_path):
    inputs = keras.Input((12, 6))
    state = layers.Dense(4)(layers.Flatten()(inputs))
    x = layers.LSTM(4, name="started", return_sequences=True)(inputs, initial_state=[state, state])
    x = layers.LSTM(4, name="relu", activation="relu")(x)
    path = tmp_path / "m.tflite"
    artifact = convert(keras.Model(inputs, x), path, calibration=SEQUENCES, fused_lstm=True)
    assert LSTM not in artifact.ops
    notes = "\n".join(artifact.notes)
    assert "'started' is not fused: it has a mask or an initial state" in notes
    assert "'relu' is not fused: its activation is not tanh" in notes


@pytest.mark.parametrize(
    "settings", [{"scheme": "int16x8"}, {"scheme": "w4a8"}, {"effort": "fast"}, {"scheme": "auto"}]
)
def test_only_the_converter_fuses(model, tmp_path, settings):
    with pytest.raises(ValueError, match="`fused_lstm` is for what TensorFlow's converter"):
        convert(model, tmp_path / "m.tflite", calibration=SEQUENCES, fused_lstm=True, **settings)


def test_saved_models_have_no_layers_to_fuse(model, tmp_path):
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(ValueError, match="`fused_lstm` needs the layers of a Keras model"):
        convert(tmp_path / "saved", tmp_path / "m.tflite", "float32", fused_lstm=True)

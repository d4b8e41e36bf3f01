"""Recurrent layers: trained in a loop, exported step by step in integers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of
from tfcompress.quantization.rules.recurrent_loop import UnrolledLoop

STEPS, FEATURES = 3, 8
RNG = np.random.default_rng(0)
X = (0.5 * RNG.normal(size=(96, STEPS, FEATURES))).astype("float32")


def forms(x):
    """The supported forms of recurrent layers, each an output of its own."""
    image = layers.Reshape((STEPS, 4, 2, 1))(x)
    sequences = {"return_sequences": True}
    outputs, *state = layers.LSTM(5, return_state=True, name="encoder")(x)
    backwards = layers.LSTM(4, recurrent_activation="hard_sigmoid", go_backwards=True)
    frames = keras.Sequential(
        [layers.Conv2D(4, 2, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    )
    return {
        "lstm": outputs,
        "lstm_state": state[1],
        "lstm_from_state": layers.LSTM(5, **sequences)(x, initial_state=state),
        "lstm_backwards": backwards(x),
        "gru": layers.GRU(6)(x),
        "gru_reset_first": layers.GRU(5, reset_after=False)(x),
        "simple": layers.SimpleRNN(8)(x),
        "simple_relu": layers.SimpleRNN(8, activation="relu", **sequences)(x),
        "bidirectional": layers.Bidirectional(layers.LSTM(4, **sequences))(x),
        "bidirectional_average": layers.Bidirectional(layers.SimpleRNN(4), merge_mode="ave")(x),
        "stacked": layers.RNN([layers.GRUCell(4), layers.LSTMCell(5)])(x),
        "conv_lstm": layers.ConvLSTM2D(3, (3, 2), padding="same", **sequences)(image),
        "time_distributed": layers.TimeDistributed(frames)(image),
    }


def perturb(model, seed=0):
    """Give biases values that training would."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.split("/")[-1] in ("bias", "beta", "gamma", "moving_variance"):
            low, high = (-0.4, 0.8) if variable.path.endswith("bias") else (0.2, 1.2)
            variable.assign(generator.uniform(low, high, variable.shape))


@pytest.fixture(scope="module")
def models():
    """A float model of all forms and its calibrated quantization-aware copy."""
    keras.utils.set_random_seed(0)
    x = keras.Input((STEPS, FEATURES), name="rows")
    model = keras.Model(x, forms(x))
    perturb(model)
    return model, tfc.quantize_aware(model, calibration=X, verbose=False)


def test_without_quantization_every_form_is_the_float_layer(models, in_float):
    model, qat = models
    with in_float(qat):
        outputs, expected = qat(X), model(X)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=2e-5, err_msg=name)


def test_a_sample_alone_is_answered_as_in_a_batch(models):
    _, qat = models
    together, alone = qat(X), qat(X[:1])
    for name, value in together.items():
        # Another order of summation may move a value across a rounding boundary.
        np.testing.assert_allclose(alone[name], value[:1], atol=0.05, err_msg=name)


def test_quantization_costs_little(models):
    model, qat = models
    outputs, expected = qat(X), model(X)
    for name, value in expected.items():
        noise = np.std(outputs[name] - value) / np.std(value)
        assert 0 < noise < 0.06, name


def test_exported_forms_are_integer_and_within_two_quanta(models, tmp_path, quanta):
    _, qat = models
    path = tmp_path / "forms.tflite"
    artifact = tfc.export(qat, path, io="float32", calibration=X, tolerance=np.inf)
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []
    assert "WHILE" not in artifact.ops
    found = quanta(artifact, X, qat.predict(X, verbose=0))
    assert {name: q.max() for name, q in found.items() if q.max() > 2.01} == {}
    off = {name: np.mean(q > 0.5) for name, q in found.items()}
    # The bias of a hard sigmoid is rounded to the scale of its input.
    assert off.pop("lstm_backwards") < 0.05
    assert {name: share for name, share in off.items() if share > 0.02} == {}


def open_forms(x):
    """Recurrent layers behind an open number of steps, also in the middle of a network."""
    middle = layers.Conv1D(4, 2, activation="relu", name="middle")(x)
    sequences = {"return_sequences": True}
    return {
        "lstm": layers.Dense(2)(layers.LSTM(4, **sequences)(x)),
        "gru": layers.GRU(4)(middle),
        "simple": layers.SimpleRNN(4)(layers.Activation("sigmoid")(middle)),
        "bidirectional": layers.Bidirectional(layers.GRU(3, **sequences))(middle),
        "in_float": layers.GRU(3, name="excluded")(x),
    }


def test_open_number_of_steps_is_taken_from_the_samples(tmp_path, quanta):
    x = keras.Input((None, FEATURES), name="rows")
    model = keras.Model(x, open_forms(x))
    perturb(model)
    data = X[:48]
    scheme = {"default": "int8", "excluded": "float"}
    qat = tfc.quantize_aware(model, scheme, calibration=data, verbose=False)
    path = tmp_path / "open.tflite"
    artifact = tfc.export(qat, path, io="float32", calibration=data, tolerance=np.inf)
    assert artifact.inputs[0].shape == (1, STEPS, FEATURES)
    assert [row["operation"] for row in artifact.plan_skipped] == ["excluded"]
    assert "WHILE" not in artifact.ops
    found = quanta(artifact, data, qat.predict(data, verbose=0))
    found.pop("in_float")
    assert {name: q.max() for name, q in found.items() if q.max() > 2.01} == {}
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"give `calibration` samples.*\(None, None, 8\)"):
        tfc.export(qat, path)
    assert path.read_bytes() == before


def test_open_number_of_steps_after_training(tmp_path):
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.LSTM(4), layers.Dense(1)])
    artifact = tfc.convert(model, tmp_path / "open.tflite", "w4a8", X)
    assert artifact.inputs[0].shape == (1, STEPS, FEATURES)
    assert artifact.float_islands == []


def test_steps_that_no_input_fixes_are_refused():
    cell = {"hidden": ActivationQuantizer(fixed_range=(-1, 1))}
    with pytest.raises(ValueError, match=r"number of its steps.*\(None, None, 4\)"):
        UnrolledLoop(cell).run(lambda x, states: (x, states), keras.Input((None, 4)), None, False)


def masked_forms(tokens, mask):
    """Recurrent layers that pass over steps."""
    sequences = {"return_sequences": True}
    x = layers.Embedding(20, FEATURES, mask_zero=True, name="table")(tokens)
    outputs, *state = layers.LSTM(5, **sequences, return_state=True)(x)
    both = layers.GRU(4, **sequences)
    return {
        "of_masked": layers.SimpleRNN(6)(outputs),
        "bidirectional": layers.Bidirectional(both)(x),  # gives zeros for masked steps
        "stacked": layers.RNN([layers.GRUCell(4), layers.LSTMCell(5)], go_backwards=True)(x),
        "unmasked": layers.LSTM(5)(x, initial_state=state),  # Keras takes no mask from `x` here
        "from_state": layers.LSTM(5, **sequences)(x, initial_state=state, mask=mask),
    }


def test_masked_steps_change_nothing_in_training_and_in_the_file(in_float, tmp_path, quanta):
    keras.utils.set_random_seed(4)
    inputs = [
        keras.Input((STEPS,), dtype="int32", name="a_tokens"),
        keras.Input((STEPS,), dtype="bool", name="mask"),
    ]
    model = keras.Model(inputs, masked_forms(*inputs))
    perturb(model)
    table = model.get_layer("table").embeddings
    table.assign(RNG.normal(size=table.shape))
    places, ends = np.arange(STEPS), RNG.integers(0, STEPS + 1, (96, 1))
    # Padded behind or in front; some are nothing else than padding.
    full = np.where(np.arange(96)[:, None] % 2, places < ends, places >= ends)
    data = [RNG.integers(1, 20, (96, STEPS)) * full, RNG.random((96, STEPS)) < 0.6]
    qat = tfc.quantize_aware(model, calibration=data, verbose=False)
    expected = model.predict(data, verbose=0)
    with in_float(qat):
        outputs = qat(data)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], atol=2e-5, err_msg=name)
    answers = qat.predict(data, verbose=0)
    for name, value in answers.items():
        assert np.std(value - expected[name]) < 0.06 * np.std(expected[name]), name
    path = tmp_path / "masked.tflite"
    artifact = tfc.export(qat, path, io="float32", calibration=data, tolerance=np.inf)
    assert artifact.float_islands == []
    assert artifact.plan_skipped == []
    for name, off in quanta(artifact, data, answers).items():
        assert off.max() <= 2.01, name
        assert np.mean(off > 0.5) < 0.02, name


def test_saved_model_reloads_bit_exactly(models, tmp_path):
    _, qat = models
    qat.save(tmp_path / "qat.keras")
    loaded = keras.models.load_model(tmp_path / "qat.keras")
    expected, answers = qat(X[:8]), loaded(X[:8])
    for name, value in expected.items():
        np.testing.assert_array_equal(answers[name], value, err_msg=name)


def test_strip_gives_back_the_layers_with_baked_kernels(models):
    model, qat = models
    plain = tfc.strip(qat)
    recurrent = (layers.RNN, layers.Bidirectional)
    names = {layer.name for layer in model.layers if isinstance(layer, recurrent)}
    assert names == {layer.name for layer in plain.layers if isinstance(layer, recurrent)}
    kernel = ops.convert_to_numpy(plain.get_layer("encoder").cell.recurrent_kernel)
    codes = kernel / (np.abs(kernel).max(axis=0) / 127)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


def test_classifier_trained_on_digits_keeps_its_answers_in_the_file(digits, tmp_path):
    keras.utils.set_random_seed(1)
    (x, y), (x_test, y_test) = digits.train, digits.test
    inputs = keras.Input((8, 8, 1), name="image")
    hidden = layers.LSTM(24, name="memory")(layers.Reshape((8, 8))(inputs))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(hidden))
    settings = ("sparse_categorical_crossentropy", ["accuracy"])
    model.compile(keras.optimizers.Adam(0.01), settings[0], metrics=settings[1])
    model.fit(x, y, epochs=8, batch_size=64, verbose=0)
    qat = tfc.quantize_aware(model, verbose=False)
    before = [ops.convert_to_numpy(w) for w in qat.trainable_weights]
    qat.compile(keras.optimizers.Adam(0.002), settings[0], metrics=settings[1])
    qat.fit(x, y, epochs=3, batch_size=64, verbose=0)
    assert all(q.range is not None for q in quantizers_of(qat))
    for then, now in zip(before, qat.trainable_weights, strict=True):
        assert np.any(ops.convert_to_numpy(now) != then), now.path
    score = model.evaluate(x_test, y_test, verbose=0)[1]
    assert qat.evaluate(x_test, y_test, verbose=0)[1] >= score - 0.02
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=x_test)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 2
    assert artifact.fidelity.agreement == 1


@pytest.mark.slow
def test_dropout_and_delayed_quantization_train():
    keras.utils.set_random_seed(2)
    x = keras.Input((STEPS, FEATURES))
    y = layers.GRU(4, dropout=0.3, recurrent_dropout=0.3, return_sequences=True)(x)
    y = layers.LSTM(4, dropout=0.3)(y)
    qat = tfc.quantize_aware(keras.Model(x, layers.Dense(2)(y)), verbose=False)
    assert np.any(ops.convert_to_numpy(qat(X, training=True) != qat(X, training=True)))
    qat.compile("adam", "mse")
    schedule = tfc.callbacks.QuantizationSchedule(begin=2, freeze_ranges=4)
    targets = np.zeros((96, 2), "float32")
    qat.fit(X, targets, batch_size=16, verbose=0, callbacks=[schedule])
    assert all(q.range is not None for q in quantizers_of(qat))
    np.testing.assert_array_equal(qat(X), qat(X))


@pytest.mark.slow
def test_compiled_training_learns_the_same_ranges():
    keras.utils.set_random_seed(3)
    x = keras.Input((STEPS, FEATURES))
    model = keras.Model(x, layers.LSTM(3)(x))
    learned = []
    for jit_compile in (False, True):
        qat = tfc.quantize_aware(model, verbose=False)
        qat.compile("sgd", "mse", jit_compile=jit_compile)
        qat.fit(X, np.zeros((96, 3), "float32"), batch_size=48, verbose=0, shuffle=False)
        learned.append([q.range for q in quantizers_of(qat)])
    np.testing.assert_allclose(learned[0], learned[1], atol=1e-3)


@pytest.mark.slow
def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        x = keras.Input((STEPS, FEATURES))
        y = layers.Bidirectional(layers.LSTM(4))(x)
        model = keras.Model(x, layers.Dense(2, dtype="float32")(y))
    finally:
        keras.config.set_dtype_policy("float32")
    qat = tfc.quantize_aware(model, verbose=False)
    qat.compile("adam", "mse")
    qat.fit(X, np.zeros((96, 2), "float32"), batch_size=48, verbose=0)
    assert np.all(np.isfinite(qat.predict(X, verbose=0)))


@keras.saving.register_keras_serializable("test_recurrent")
class DoublingCell(layers.SimpleRNNCell):
    """A cell whose arithmetic is its own."""

    def call(self, sequence, states, training=False):
        """Twice the state."""
        output, states = super().call(sequence, states, training)
        return 2 * output, states


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda x: layers.LSTM(3)(x, mask=x[..., 0]), "give a mask of dtype bool"),
        (lambda x: layers.GRU(3, activation="softsign")(x), "softsign has no integer form"),
        (lambda x: layers.RNN(DoublingCell(3))(x), "no integer form for the cell DoublingCell"),
        (
            lambda x: layers.ConvLSTM3D(2, 1)(layers.Reshape((STEPS, 2, 2, 2, 1))(x)),
            "no integer 3-D convolution",
        ),
        (
            lambda x: layers.Bidirectional(
                layers.LSTM(3), backward_layer=layers.SimpleRNN(3, go_backwards=True)
            )(x),
            "no common range",
        ),
    ],
)
def test_what_stays_float_is_in_the_plan_with_the_reason(build, reason, capsys):
    x = keras.Input((STEPS, FEATURES))
    qat = tfc.quantize_aware(keras.Model(x, build(x)), calibration=X)
    assert reason in " ".join(capsys.readouterr().out.split())
    assert not [w for w in wrappers_of(qat) if isinstance(w.layer, layers.RNN)]


def test_stateful_layer_stays_float(capsys):
    x = keras.Input(batch_shape=(32, STEPS, FEATURES))
    model = keras.Model(x, layers.LSTM(3, stateful=True)(x))
    tfc.quantize_aware(model)
    assert "keeps no state between calls" in " ".join(capsys.readouterr().out.split())


def test_constants_round_as_the_quantizer_does_next_to_ties():
    quantizer = ActivationQuantizer((-4.6, 4.8))
    quantizer.build()
    places = np.arange(-130, 131) + np.array([[0.4992], [0.5008]])  # beyond both ends, too
    values = (places * np.float32(9.4 / 255)).astype("float32")
    found = UnrolledLoop({"gates": quantizer}).quantized_constant("gates", values)
    np.testing.assert_allclose(found, quantizer(values), atol=1e-5)

"""Conversions that crash TensorFlow's converter or make it write garbage.

The process survives each of them, and either the file is right or the error names the cause.
"""

import uuid
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import ConversionError, FidelityError, convert

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(32, 8)).astype("float32")


def save(folder: Path, function, shape=(1, 8), **attributes):
    """Write a SavedModel of a function of one float tensor."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, name="x")])
    tf.saved_model.save(module, folder, signatures=traced)
    return folder


def weight(*shape):
    import tensorflow as tf

    return tf.Variable(RNG.normal(size=shape).astype("float32"))


def fake_quant(x, low=-4.0, high=4.0, **settings):
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, **settings)


def test_quantize_and_dequantize(tmp_path: Path):
    """As a model's own ranges it takes the converter down, or is not understood."""
    import tensorflow as tf

    kernel = weight(8, 4)

    def function(x):
        x = tf.quantization.quantize_and_dequantize_v2(x, -4.0, 4.0, range_given=True)
        w = tf.quantization.quantize_and_dequantize_v2(kernel, -3.0, 3.0, range_given=True)
        y = tf.matmul(x, w)
        return {"y": tf.quantization.quantize_and_dequantize_v2(y, -9.0, 9.0, range_given=True)}

    saved = save(tmp_path / "saved", function, kernel=kernel)
    with pytest.raises(ConversionError, match=r"QuantizeAndDequantize.*use fake quantization"):
        convert(saved, tmp_path / "m.tflite", "fake_quant", calibration=ROWS)
    assert not (tmp_path / "m.tflite").exists()
    artifact = convert(saved, tmp_path / "m.tflite", calibration=ROWS)
    assert artifact.fidelity.max_quanta <= 4


def test_fake_quantized_weights_per_channel_fail(tmp_path: Path):
    import tensorflow as tf

    kernel = weight(8, 4)

    def function(x):
        w = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, tf.fill([4], -3.0), tf.fill([4], 3.0), narrow_range=True
        )
        return {"y": fake_quant(tf.matmul(fake_quant(x), w), -20.0, 20.0)}

    saved = save(tmp_path / "saved", function, kernel=kernel)
    with pytest.raises(ConversionError, match=r"tfl?\.\w+.*tfcompress\.export"):
        convert(saved, tmp_path / "m.tflite", "fake_quant", calibration=ROWS)


def test_fake_quantized_weights_with_a_zero_point_are_refused(tmp_path: Path):
    import tensorflow as tf

    kernel = weight(3, 3, 4, 4)
    images = RNG.normal(size=(8, 6, 6, 4)).astype("float32")

    def function(x):
        w = fake_quant(kernel, -1.0, 3.0, narrow_range=False)
        return {"y": fake_quant(tf.nn.conv2d(fake_quant(x), w, 1, "SAME"), -30.0, 30.0)}

    saved = save(tmp_path / "saved", function, (1, 6, 6, 4), kernel=kernel)
    with pytest.raises(ConversionError, match=r"CONV_2D.*failed to prepare"):
        convert(saved, tmp_path / "m.tflite", "fake_quant", calibration=images)
    assert not (tmp_path / "m.tflite").exists()


def test_a_module_that_holds_a_keras_model_works(tmp_path: Path, model, images):
    """Converted as it is, its variables would be uninitialised."""

    def function(x):
        return {"y": model(x)}

    saved = save(tmp_path / "saved", function, (1, 8, 8, 3), model=model)
    artifact = convert(saved, tmp_path / "m.tflite", "float32")
    np.testing.assert_allclose(LiteRTModel(artifact).predict(images), model(images), atol=1e-5)


def test_another_endpoint_than_serve_works(tmp_path: Path, model, images):
    """The converter drops it, even when it is asked for."""
    import tensorflow as tf

    features = keras.Model(model.inputs[0], model.layers[-2].output)
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = [tf.TensorSpec((1, 8, 8, 3), name="image")]
    archive.add_endpoint("serve", lambda x: model(x), spec)
    archive.track(features)
    archive.add_endpoint("features", lambda x: features(x), spec)
    archive.write_out(tmp_path / "saved", verbose=False)
    artifact = convert(tmp_path / "saved", tmp_path / "m.tflite", "float32", signature="features")
    np.testing.assert_allclose(LiteRTModel(artifact).predict(images), features(images), atol=1e-5)


def test_a_maximum_without_a_range_of_its_own_is_caught(tmp_path: Path):
    """The file is int8 throughout, and wrong by hundreds of quanta."""
    import tensorflow as tf

    kernels = weight(8, 4), weight(8, 4)

    def function(x):
        x = fake_quant(x)
        wide = fake_quant(tf.matmul(x, kernels[0]), -60.0, 60.0)
        narrow = fake_quant(tf.matmul(x, kernels[1]), -1.0, 1.0)
        return {"y": tf.maximum(narrow, wide)}

    saved = save(tmp_path / "saved", function, kernels=list(kernels))
    with pytest.raises(FidelityError, match="quanta") as caught:
        convert(saved, tmp_path / "m.tflite", "fake_quant", calibration=ROWS)
    assert caught.value.fidelity.max_quanta > 100
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.slow
def test_sixteen_bit_fake_quantization_is_refused(tmp_path: Path):
    """The converter would write convolutions that compute garbage."""
    import tensorflow as tf

    kernel = weight(3, 3, 4, 4)
    images = RNG.normal(size=(8, 6, 6, 4)).astype("float32")

    def function(x):
        x = fake_quant(x, num_bits=16)
        return {"y": fake_quant(tf.nn.conv2d(x, kernel, 1, "SAME"), -30.0, 30.0, num_bits=16)}

    saved = save(tmp_path / "saved", function, (1, 6, 6, 4), kernel=kernel)
    with pytest.raises(ConversionError, match=r"inference_input_type.*int16"):
        convert(saved, tmp_path / "m.tflite", "fake_quant", calibration=images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_a_model_quantized_by_keras_itself_fails_with_the_operator(tmp_path: Path):
    layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4, name="head")]
    model = keras.Sequential(layers)
    model.quantize("int8")
    with pytest.raises(ConversionError, match=r"head[\s\S]*tfl\.fully_connected"):
        convert(model, tmp_path / "m.tflite", "float32")


@pytest.mark.slow
def test_a_fusable_lstm_with_variables_survives(tmp_path: Path):
    """It takes the converter down, unless its weights are tensors."""
    import tensorflow as tf

    kernel, recurrent, bias = weight(4, 12), weight(3, 12), weight(12)
    sequences = RNG.normal(size=(8, 5, 4)).astype("float32")

    def lstm(x, h, c):
        def step(t, h, c, out):
            gates = tf.matmul(x[:, t], kernel) + tf.matmul(h, recurrent) + bias
            i, f, g, o = tf.split(gates, 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            return t + 1, h, c, out.write(t, h)

        out = tf.TensorArray(tf.float32, 5, element_shape=(1, 3))
        _, h, c, out = tf.while_loop(lambda t, *_: t < 5, step, (0, h, c, out))
        y = tf.transpose(out.stack(), (1, 0, 2))
        return y[:, -1], y, h, c, tf.constant(1.0)

    fused = tf.function(
        lstm,
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{uuid.uuid4()}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        },
    )

    def function(x):
        return {"y": fused(x, tf.zeros((1, 3)), tf.zeros((1, 3)))[0]}

    weights = [kernel, recurrent, bias]
    saved = save(tmp_path / "saved", function, (1, 5, 4), weights=weights)
    with pytest.raises(ConversionError, match=r"while \(While\).*unroll=True") as caught:
        convert(saved, tmp_path / "m.tflite", calibration=sequences)
    assert caught.value.returncode != 0


def test_recurrent_layers_are_unrolled_where_their_steps_are_known(tmp_path: Path):
    """The converter crashes on their loop."""
    # With these samples it leaves the first step's split in float, too.
    sequences = np.random.default_rng(6).normal(size=(32, 5, 3)).astype("float32")
    # The number of steps is that of the samples.
    layers = [keras.Input((None, 3)), keras.layers.LSTM(4, name="memory"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    artifact = convert(model, tmp_path / "m.tflite", calibration=sequences)
    assert artifact.inputs[0].shape == (1, 5, 3)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 8
    assert "WHILE" not in artifact.ops
    assert any("Unrolled into single steps" in n and "memory" in n for n in artifact.notes)
    assert not model.get_layer("memory").unroll


def test_a_split_with_an_unused_output_is_no_float_island(tmp_path: Path):
    """The converter keeps it in float, depending on the samples."""
    import tensorflow as tf

    kernel = weight(8, 16)

    def function(x):
        first, _, third, _ = tf.split(tf.matmul(x, kernel), 4, 1)
        return {"y": tf.sigmoid(first) * tf.tanh(third) + first}

    saved = save(tmp_path / "saved", function, kernel=kernel)
    for seed in range(3):
        samples = np.random.default_rng(seed).normal(size=(32, 8)).astype("float32")
        artifact = convert(saved, tmp_path / "m.tflite", calibration=samples)
        assert artifact.float_islands == []
        assert set(artifact.ops) == {"FULLY_CONNECTED", "SPLIT", "LOGISTIC", "TANH", "MUL", "ADD"}
        assert artifact.fidelity.max_quanta <= 4


def test_negations_and_squares_are_no_float_islands(tmp_path: Path):
    """The converter has no integer form of them."""
    import tensorflow as tf

    kernel = weight(8, 6)

    def function(x):
        h = tf.matmul(x, kernel)
        return {"y": tf.square(h) * tf.sigmoid(-h)}

    saved = save(tmp_path / "saved", function, kernel=kernel)
    samples = RNG.normal(size=(64, 8)).astype("float32")
    artifact = convert(saved, tmp_path / "m.tflite", calibration=samples)
    assert artifact.float_islands == []
    assert set(artifact.ops) == {"FULLY_CONNECTED", "MUL", "LOGISTIC"}
    assert artifact.fidelity.max_quanta <= 4


def test_sums_of_sequences_of_one_channel(tmp_path: Path):
    """Keras takes one for a bias in a graph of one sample, which the converter refuses."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6))
    single = keras.layers.Dense(1)(inputs)
    residual = keras.layers.Add()([single, keras.layers.Activation("tanh")(single)])
    # As many steps as channels: as a bias, this would be added to the channels.
    model = keras.Model(inputs, inputs + residual)
    samples = RNG.normal(size=(64, 6, 6)).astype("float32")
    artifact = convert(model, tmp_path / "m.tflite", "float32")
    answers = LiteRTModel(artifact.path).predict(samples)
    np.testing.assert_allclose(answers, model.predict(samples, verbose=0), atol=1e-5)
    artifact = convert(model, tmp_path / "m.tflite", calibration=samples)
    assert artifact.fidelity.max_quanta <= 4


def test_the_error_about_a_causal_mask_names_the_way_out(tmp_path: Path):
    """Its -3e38 takes the whole range of what the converter quantizes."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    attention = keras.layers.MultiHeadAttention(2, 4)
    model = keras.Model(inputs, inputs + attention(inputs, inputs, use_causal_mask=True))
    samples = RNG.normal(size=(64, 6, 8)).astype("float32")
    with pytest.raises(FidelityError, match="observer='min_max'"):
        convert(model, tmp_path / "m.tflite", calibration=samples, tolerance=4)
    artifact = convert(model, tmp_path / "m.tflite", calibration=samples, observer="min_max")
    assert artifact.fidelity.max_quanta <= 4


@pytest.mark.slow
@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_loops_in_saved_models_fail_with_the_cure(layer, tmp_path: Path):
    sequences = RNG.normal(size=(32, 5, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 3)), layer(4, name="memory"), keras.layers.Dense(2)])
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(ConversionError, match=r"memory.*unroll=True"):
        convert(tmp_path / "saved", tmp_path / "m.tflite", calibration=sequences)
    artifact = convert(model, tmp_path / "m.tflite", calibration=sequences)
    assert artifact.fidelity.max_quanta <= 8


@pytest.mark.slow
def test_vanishing_scales_do_not_take_the_process_along(tmp_path: Path):
    """LiteRT's reference kernels abort on them."""
    layers = [keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 1e-38))
    artifact = convert(model, tmp_path / "m.tflite", calibration=ROWS)
    assert artifact.fidelity.max_quanta == 0


def test_lookups_belong_in_front_of_the_exported_model(tmp_path: Path):
    lookup = keras.layers.IntegerLookup(vocabulary=[3, 5, 8])
    inputs = keras.Input((4,), dtype="int64")
    x = keras.layers.Embedding(lookup.vocabulary_size(), 3)(lookup(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(x)))
    tokens = RNG.integers(0, 9, (16, 4))
    with pytest.raises(ConversionError, match=r"in a table, as StringLookup.*Leave these layers"):
        convert(model, tmp_path / "m.tflite", calibration=tokens)

"""`convert`: models of every kind that people have lying about."""

import keras
import numpy as np
import pytest

from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import ConversionError, convert

RNG = np.random.default_rng(0)
X = RNG.random((40, 8, 8, 3), np.float32)


def assert_computes(artifact, expected, atol=1e-5):
    seen = LiteRTModel(artifact).predict(X)
    np.testing.assert_allclose(seen, expected, atol=atol)


@pytest.fixture(scope="module")
def legacy(tf_keras):
    """A small Keras 2 model with a function on tensors."""
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = tf_keras.layers.Conv2D(6, 3, activation="hard_sigmoid")(image)
    x = tf_keras.layers.GlobalAveragePooling2D()(x) * 2.0
    return tf_keras.Model(image, tf_keras.layers.Dense(4)(x), name="legacy")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_keras_2_model_and_its_files(legacy, tmp_path):
    expected = legacy(X).numpy()
    assert_computes(convert(legacy, tmp_path / "m.tflite", "float32"), expected)
    for name in ("model.h5", "model.keras"):
        legacy.save(tmp_path / name)
        artifact = convert(tmp_path / name, tmp_path / "m.tflite", "float32")
        assert artifact.notes[0] == "Rebuilt from Keras 2."
        assert_computes(artifact, expected)
    artifact = convert(tmp_path / "model.h5", tmp_path / "m.tflite", calibration=X)
    assert artifact.fidelity.max_quanta <= 4
    legacy.save(tmp_path / "saved_model", save_format="tf")
    assert_computes(
        convert(tmp_path / "saved_model", tmp_path / "m.tflite", "float32"), expected
    )  # fmt: skip


@pytest.mark.slow
def test_keras_2_model_that_cannot_be_rebuilt_is_traced(tf_keras, tmp_path):
    class Doubling(tf_keras.layers.Layer):
        def call(self, x):
            return x * 2.0

    layers = [tf_keras.Input((8, 8, 3)), Doubling(), tf_keras.layers.Conv2D(2, 3)]
    model = tf_keras.Sequential(layers)
    artifact = convert(model, tmp_path / "m.tflite", "float32")
    assert "as Keras 2 traces it" in artifact.notes[0]
    assert_computes(artifact, model(X))


def test_subclassed_keras_2_model_is_traced_as_it_was_called(tf_keras, tmp_path):
    class Subclassed(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = tf_keras.layers.Conv2D(2, 3)

        def call(self, x):
            return self.convolution(x["image"]) if isinstance(x, dict) else self.convolution(x)

    model = Subclassed()
    with pytest.raises(ValueError, match="never built"):
        convert(model, tmp_path / "m.tflite", "float32")
    for data in (X, {"image": X}):
        model = Subclassed()
        expected = model(data).numpy()
        assert_computes(convert(model, tmp_path / "m.tflite", "float32"), expected)


def test_tf1_saved_model(tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="image")
        weight = v1.get_variable("w", (192, 4), use_resource=False)
        scores = tf.matmul(tf.reshape(image, (-1, 192)), weight)
        session.run(v1.global_variables_initializer())
        expected = session.run(scores, {image: X})
        builder = v1.saved_model.Builder(str(tmp_path / "saved"))
        signature = v1.saved_model.predict_signature_def({"image": image}, {"scores": scores})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    assert_computes(convert(tmp_path / "saved", tmp_path / "m.tflite", "float32"), expected)


def test_float_tflite(tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(64)]
    model = keras.Sequential([*layers, keras.layers.Dense(5)])
    artifact = convert(model, tmp_path / "float.tflite", "float32")
    expected = model(X).numpy()
    small = convert(artifact.path, tmp_path / "int8.tflite", calibration=X)
    assert small.float_islands == []
    assert small.fidelity.max_quanta <= 5
    assert small.inputs[0].dtype == "int8"
    edges = convert(artifact.path, tmp_path / "e.tflite", calibration=X, io="float32")
    assert edges.inputs[0].dtype == edges.outputs[0].dtype == "float32"
    assert_computes(edges, expected, 5 * small.outputs[0].scale)
    dynamic = convert(artifact.path, tmp_path / "d.tflite", "dynamic", calibration=X)
    assert dynamic.weight_bytes["int8"] > 0
    same = convert(artifact.path, tmp_path / "s.tflite", "float32", calibration=X)
    assert same.sha256 == artifact.sha256
    with pytest.raises(ValueError, match=r"Only a float \.tflite.*int8"):
        convert(small.path, tmp_path / "x.tflite", calibration=X)
    half = convert(artifact.path, tmp_path / "h.tflite", "float16", calibration=X)
    # The first convolution has fewer weights than is worth an operator.
    assert half.weight_bytes["float16"] == 2 * (8 * 64 + 64 * 5)
    assert half.ops["DEQUANTIZE"] == 2
    assert half.fidelity.sqnr > 50
    bytes_ = convert(artifact.path, tmp_path / "u.tflite", calibration=X, io="uint8")
    assert bytes_.inputs[0].dtype == bytes_.outputs[0].dtype == "uint8"
    assert [spec.name for spec in bytes_.inputs] == [spec.name for spec in small.inputs]
    assert bytes_.inputs[0].zero_point == small.inputs[0].zero_point + 128
    assert bytes_.ops["QUANTIZE"] == 2
    assert bytes_.float_islands == []
    np.testing.assert_array_equal(LiteRTModel(bytes_).predict(X), LiteRTModel(small).predict(X))
    with pytest.raises(ValueError, match=r"only the schemes.*fake_quant"):
        convert(artifact.path, tmp_path / "x.tflite", "fake_quant")
    assert not (tmp_path / "x.tflite").exists()


def test_code_in_files_is_refused_unless_it_is_trusted(tf_keras, tmp_path):
    """A Lambda layer is code of whoever wrote the file."""
    layers = [keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1.0, name="plus")]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    layers = [tf_keras.Input((3,)), tf_keras.layers.Lambda(lambda x: x + 1.0, name="plus")]
    with pytest.warns(UserWarning, match="HDF5"):
        tf_keras.Sequential(layers).save(tmp_path / "lambda.h5")
    for name in ("lambda.keras", "lambda.h5"):
        with pytest.raises(ValueError, match=r"Python code.*plus.*safe_mode"):
            convert(tmp_path / name, tmp_path / "m.tflite", "float32")
    artifact = convert(tmp_path / "lambda.keras", tmp_path / "m.tflite", "float32", safe_mode=False)
    assert artifact.fidelity.max_relative < 1e-5


def test_trusted_code_reaches_the_own_quantization(tmp_path):
    layers = [keras.Input((8,)), keras.layers.Dense(4, name="hidden"),
              keras.layers.Lambda(lambda x: -x, name="minus")]  # fmt: skip
    path = tmp_path / "lambda.keras"
    keras.Sequential(layers).save(path)
    rows = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    with pytest.raises(ValueError, match=r"Python code.*minus.*safe_mode"):
        convert(path, tmp_path / "m.tflite", "w4a8", rows)
    artifact = convert(path, tmp_path / "m.tflite", "w4a8", rows, safe_mode=False)
    assert artifact.weight_bytes["int4"] == 16
    assert {row["operation"] for row in artifact.plan_skipped} == {"minus"}


def test_saved_model_that_touches_files_is_refused(tmp_path):
    import tensorflow as tf

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 2))])
        def __call__(self, x):
            tf.io.write_file(str(tmp_path / "written"), "something")
            return {"y": x + 1.0}

    module = Reader()
    tf.saved_model.save(module, tmp_path / "saved", signatures=module.__call__)
    with pytest.raises(ValueError, match=r"reads or writes files.*WriteFile"):
        convert(tmp_path / "saved", tmp_path / "m.tflite", "float32")
    assert not (tmp_path / "written").exists()


def test_damaged_files(tmp_path):
    (tmp_path / "empty.h5").touch()
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    for name in ("empty.h5", "broken.keras", "saved"):
        with pytest.raises((ConversionError, ValueError), match=r"cannot be loaded|signatures"):
            convert(tmp_path / name, tmp_path / "m.tflite", "float32")
    (tmp_path / "letter.tflite").write_text("Dear reader")
    with pytest.raises(ValueError, match="TFLite"):
        convert(tmp_path / "letter.tflite", tmp_path / "m.tflite", "float32")

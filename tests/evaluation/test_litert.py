from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import Artifact, convert, convert_saved


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((150, 8, 8, 3), np.float32)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalMaxPooling2D()(x)))


@pytest.fixture(scope="module")
def artifact(model, images, tmp_path_factory) -> Artifact:
    return convert(model, tmp_path_factory.mktemp("litert") / "m.tflite", calibration=images)


def test_predicts_like_the_model(model, images, artifact: Artifact):
    runner = LiteRTModel(artifact)
    (spec,) = runner.inputs
    assert (spec.name, spec.shape, spec.dtype) == ("image", (1, 8, 8, 3), "int8")
    (out,) = runner.outputs
    seen = runner.predict(images)
    assert (seen.shape, seen.dtype) == ((150, 10), np.float32)
    np.testing.assert_allclose(seen, model(images).numpy(), atol=4 * out.scale)


def test_large_batches_give_what_single_samples_give(images, artifact: Artifact):
    runner = LiteRTModel(artifact.path)
    codes = {"image": runner.inputs[0].quantize(images)}
    together = runner.invoke_raw(codes)
    assert runner._batched
    one_by_one = runner.invoke_raw(codes, resize=False)
    assert together["output_0"].dtype == np.int8
    np.testing.assert_array_equal(together["output_0"], one_by_one["output_0"])


def test_files_that_cannot_be_resized_are_run_one_by_one(images, tmp_path: Path):
    inputs = keras.Input((8, 8, 3), name="image")
    flat = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    flat.save(tmp_path / "flat.keras")
    convert_saved(tmp_path / "flat.keras", tmp_path / "flat.tflite", scheme="float32")
    seen = LiteRTModel(tmp_path / "flat.tflite").predict(images)
    np.testing.assert_allclose(seen, flat(images).numpy(), atol=1e-5)


def test_paths_bytes_artifacts_and_resolvers_agree(images, artifact: Artifact):
    expected = LiteRTModel(artifact).predict(images[:8])
    content = artifact.path.read_bytes()
    for source in (artifact.path, str(artifact.path), content):
        np.testing.assert_array_equal(LiteRTModel(source).predict(images[:8]), expected)
    reference = LiteRTModel(content, threads=2, resolver="reference").predict(images[:8])
    # The kernels round differently, by one quantum at most.
    np.testing.assert_allclose(reference, expected, atol=1.01 * artifact.outputs[0].scale)


def test_codes_pass_and_dictionaries_are_by_name(images, artifact: Artifact):
    runner = LiteRTModel(artifact)
    codes = runner.inputs[0].quantize(images[:3])
    np.testing.assert_array_equal(runner.predict(codes), runner.predict(images[:3]))
    by_name = runner.predict({"image": images[:3]})
    np.testing.assert_array_equal(by_name, runner.predict([images[:3]]))
    # Whole numbers of another type are real numbers.
    zeros = np.zeros((1, 8, 8, 3))
    np.testing.assert_array_equal(
        runner.predict(zeros.astype(np.int64)), runner.predict(zeros.astype(np.float32))
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float64"])
def test_run_takes_numbers_of_any_type(artifact: Artifact, dtype: str):
    runner = LiteRTModel(artifact, keep_tensors=True)
    ones = np.ones((2, 8, 8, 3), np.float32)
    given = ones.astype(dtype)
    expected = runner.predict(ones)
    for x in (given, [given], {"image": given}):
        np.testing.assert_array_equal(runner.run(x)["output_0"], expected)
    source = runner._sources[0]
    codes = runner.read_tensors({"image": given}, [source])[source]
    np.testing.assert_array_equal(codes[:, 0], runner.inputs[0].quantize(ones))


def test_state_is_reset_before_each_sample(tmp_path: Path):
    import tensorflow as tf

    tf.saved_model.save(fused := _FusedLSTM(), tmp_path / "lstm", fused.serve)
    artifact = convert(tmp_path / "lstm", tmp_path / "lstm.tflite", "float32")
    assert artifact.ops == {"UNIDIRECTIONAL_SEQUENCE_LSTM": 1}
    x = np.random.default_rng(0).random((70, 6, 3), np.float32)
    expected = np.concatenate([fused.serve(x[i : i + 1])["y"] for i in range(70)])
    runner = LiteRTModel(artifact)
    np.testing.assert_allclose(runner.predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(runner.predict(x[::-1]), expected[::-1], atol=1e-5)


def test_bad_input(images, artifact: Artifact, tmp_path: Path):
    runner = LiteRTModel(artifact)
    with pytest.raises(ValueError, match=r"\(samples, 8, 8, 3\).*\(150, 8, 8\)"):
        runner.predict(images[..., 0])
    with pytest.raises(ValueError, match="Did you mean 'image'"):
        runner.predict({"imag": images})
    with pytest.raises(ValueError, match="no samples"):
        runner.predict(images[:0])
    with pytest.raises(ValueError, match="numbers"):
        runner.predict(np.full((1, 8, 8, 3), "a"))
    with pytest.raises(ValueError, match="'auto', 'builtin', 'reference'"):
        LiteRTModel(artifact, resolver="fast")
    with pytest.raises(FileNotFoundError):
        LiteRTModel(tmp_path / "nothing.tflite")
    with pytest.raises(ValueError, match="truncated or damaged"):
        LiteRTModel(artifact.path.read_bytes()[:1000])


def _FusedLSTM():
    """A loop that the converter recognises as one LSTM operator, which keeps its state."""
    import tensorflow as tf

    class FusedLSTM(tf.Module):
        def __init__(self):
            generator = np.random.default_rng(1)
            self.weights = [
                tf.Variable(generator.normal(size=shape).astype(np.float32))
                for shape in ((3, 16), (4, 16), (16,))
            ]

        @tf.function(input_signature=[tf.TensorSpec((1, 6, 3), name="x")])
        def serve(self, x):
            def lstm(x, h, c, kernel, recurrent, bias):
                steps = tf.transpose(x, (1, 0, 2))
                out = tf.TensorArray(tf.float32, size=6, element_shape=h.shape)

                def step(t, h, c, out):
                    gates = tf.matmul(steps[t], kernel) + tf.matmul(h, recurrent) + bias
                    i, f, g, o = tf.split(gates, 4, 1)
                    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
                    h = tf.sigmoid(o) * tf.tanh(c)
                    return t + 1, h, c, out.write(t, h)

                _, h, c, out = tf.while_loop(lambda t, *_: t < 6, step, (0, h, c, out))
                y = tf.ensure_shape(tf.transpose(out.stack(), (1, 0, 2)), (1, 6, 4))
                return y[:, -1], y, h, c, tf.constant(1.0)

            fused = tf.function(
                lstm,
                autograph=False,
                experimental_attributes={
                    "api_implements": "lstm_d8a0a0a0-0000-4000-8000-000000000000",
                    "api_preferred_device": "CPU",
                    "time_major": False,
                    "go_backwards": False,
                },
            )
            zero = tf.zeros((1, 4))
            weights = [tf.convert_to_tensor(weight) for weight in self.weights]
            return {"y": fused(x, zero, zero, *weights)[1]}

    return FusedLSTM()

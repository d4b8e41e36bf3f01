from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import Artifact, ConversionError, FidelityError, convert, inspect_file
from tfcompress.export.converter import refuse_variables
from tfcompress.graph import UntraceableModelError


@pytest.mark.parametrize(
    ("scheme", "least_sqnr", "dtype"),
    [("float16", 50, "float32"), ("int16x8", 25, "int16")],
)
def test_other_schemes(model, images, tmp_path: Path, scheme, least_sqnr, dtype):
    artifact = convert(model, tmp_path / "model.tflite", scheme, calibration=images)
    assert artifact.fidelity.sqnr > least_sqnr
    assert artifact.float_islands == []
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == dtype
    assert Artifact.load(artifact.path) == artifact


def test_int8_and_float32(model, images, int8_artifact: Artifact, float_artifact: Artifact):
    assert float_artifact.fidelity.max_relative < 1e-4
    assert float_artifact.fidelity.source == "random within the input range"
    assert int8_artifact.fidelity.max_quanta <= 4
    assert int8_artifact.weight_bytes["int8"] * 4 < float_artifact.weight_bytes["float32"]
    expected = model(images).numpy()
    seen = LiteRTModel(float_artifact).predict(images)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    seen = LiteRTModel(int8_artifact).predict(images)
    np.testing.assert_allclose(seen, expected, atol=4 * int8_artifact.outputs[0].scale)


def test_input_and_output_types(model, images, tmp_path: Path, float_io_artifact: Artifact):
    uint8 = convert(model, tmp_path / "model.tflite", calibration=images, io="uint8")
    for artifact, io in ((uint8, "uint8"), (float_io_artifact, "float32")):
        assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == artifact.io == io
        assert artifact.float_islands == []
        assert inspect_file(artifact.path).fully_int8
        assert artifact.fidelity.max_quanta <= 4


def test_several_inputs_and_outputs_keep_the_order_of_the_model(tmp_path: Path):
    keras.utils.set_random_seed(3)
    # The file sorts inputs by name: alpha before zeta.
    numbers, ids = keras.Input((4,), name="zeta"), keras.Input((6,), name="alpha", dtype="int32")
    table = keras.layers.Flatten()(keras.layers.Embedding(10, 3)(ids))
    both = keras.layers.Concatenate()([numbers, table])
    heads = [keras.layers.Dense(3)(both), keras.layers.Dense(2, activation="softmax")(both)]
    generator = np.random.default_rng(0)
    data = [generator.random((40, 4), np.float32), generator.integers(0, 10, (40, 6))]
    model = keras.Model([numbers, ids], heads)
    artifact = convert(model, tmp_path / "model.tflite", calibration=data)
    assert [(s.name, s.dtype) for s in artifact.inputs] == [("zeta", "int8"), ("alpha", "int32")]
    for seen, expected, spec in zip(
        LiteRTModel(artifact).predict(data), model(data), artifact.outputs
    ):
        np.testing.assert_allclose(seen, expected, atol=4 * spec.scale)


@pytest.fixture(scope="module")
def trained_with_callback():
    """A model that was trained with the callback, whose ranges hang on it, and its samples."""
    keras.utils.set_random_seed(4)
    stack = [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential(stack)
    model.compile("adam", "mse")
    x = np.random.default_rng(4).normal(size=(64, 6)).astype("float32")
    callback = tfc.callbacks.QuantizationAwareTraining(begin=0.5, calibration=x)
    model.fit(x, x[:, :3], epochs=4, verbose=0, callbacks=[callback])
    return model, x


def test_ranges_that_the_callback_learned_are_taken(trained_with_callback, tmp_path: Path):
    model, x = trained_with_callback
    model.save(tmp_path / "model.keras")
    path = tmp_path / "model.tflite"
    expected = tfc.quantization.quantized_form(model).predict(x, verbose=0)
    # With samples of another size, ranges that they would give are others.
    for source, samples in ((model, None), (tmp_path / "model.keras", None), (model, 9 * x)):
        artifact = convert(source, path, calibration=samples)
        assert artifact.scheme == "int8"
        seen = LiteRTModel(artifact).predict(x)
        np.testing.assert_allclose(seen, expected, atol=0.01 * artifact.outputs[0].scale)


def test_float_file_of_what_the_callback_trained_is_stripped(trained_with_callback, tmp_path: Path):
    model, x = trained_with_callback
    model.save(tmp_path / "model.keras")
    expected = tfc.strip(model).predict(x, verbose=0)
    for source in (model, tmp_path / "model.keras"):
        artifact = convert(source, tmp_path / "model.tflite", "float32")
        np.testing.assert_allclose(LiteRTModel(artifact).predict(x), expected, atol=1e-5)
        assert "ranges of the training are not in the file" in artifact.notes[-1]


def test_file_saved_before_quantization_began_has_no_ranges(tmp_path: Path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    tfc.quantization.attach_twin(model)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="needs `calibration`"):
        convert(tmp_path / "model.keras", tmp_path / "model.tflite")
    artifact = convert(tmp_path / "model.keras", tmp_path / "model.tflite", "float32")
    assert artifact.notes == []


class Doubling(keras.layers.Layer):
    """Not registered, so the child process cannot load it."""

    def call(self, x):
        return x * 2.0


class Classifier(keras.Model):
    def __init__(self):
        super().__init__(name="classifier")
        self.convolution = keras.layers.Conv2D(4, 3)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(keras.ops.mean(self.convolution(x), (1, 2)))


def test_models_whose_code_only_this_process_has(images, tmp_path: Path):
    inputs = keras.Input((8, 8, 3))
    custom = keras.Model(inputs, keras.layers.Conv2D(2, 3)(Doubling()(inputs)))
    artifact = convert(custom, tmp_path / "custom.tflite", calibration=images)
    assert artifact.inputs[0].name == "input"
    assert artifact.fidelity.max_quanta <= 4
    subclassed = Classifier()
    with pytest.raises(ValueError, match=r"never built.*classifier"):
        convert(subclassed, tmp_path / "subclassed.tflite", "float32")
    subclassed(images)
    artifact = convert(subclassed, tmp_path / "subclassed.tflite", "float32")
    assert artifact.inputs[0].shape == (1, 8, 8, 3)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_files_and_saved_models(model, images, tmp_path: Path):
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    model.export(tmp_path / "saved_model", verbose=False)
    expected = model(images).numpy()
    for name in ("model.keras", "model.h5", "saved_model"):
        artifact = convert(tmp_path / name, tmp_path / "model.tflite", "float32")
        seen = LiteRTModel(artifact).predict(images)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    assert convert(
        tmp_path / "saved_model", tmp_path / "model.tflite", calibration={"image": images}
    ).fidelity.max_quanta <= 4  # fmt: skip


def test_saved_model_that_the_converter_turns_into_garbage_works(model, images, tmp_path: Path):
    import tensorflow as tf

    # Converted as it is, this outputs NaN or 1e37: its variables are not tracked.
    tf.saved_model.save(model, tmp_path / "untracked")
    artifact = convert(tmp_path / "untracked", tmp_path / "model.tflite", "float32")
    seen = LiteRTModel(artifact).predict(images)
    np.testing.assert_allclose(seen, model(images).numpy(), atol=1e-5)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "untracked"))
    with pytest.raises(ValueError, match=r"uninitialised variables.*VAR_HANDLE"):
        refuse_variables(inspect_file(converter.convert()))


def test_signatures_and_state(tmp_path: Path):
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self):
            self.weight = tf.Variable(tf.random.stateless_normal((4, 3), (0, 1)))
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def counting(self, x):
            self.count.assign_add(1.0)
            return {"y": tf.matmul(x, self.weight) + self.count}

        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def plain(self, x):
            return {"y": tf.matmul(x, self.weight)}

    module = Module()
    tf.saved_model.save(
        module, tmp_path / "saved", {"counting": module.counting, "plain": module.plain}
    )
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"signatures \['counting', 'plain'\]"):
        convert(tmp_path / "saved", path, "float32")
    artifact = convert(tmp_path / "saved", path, "float32", signature="plain")
    assert [spec.name for spec in artifact.outputs] == ["y"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="uninitialised variables"):
        convert(tmp_path / "saved", path, "float32", signature="counting")
    assert path.read_bytes() == before
    assert Artifact.load(path) == artifact


def test_open_shapes_are_taken_from_the_samples(images, tmp_path: Path):
    layers = [keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)]
    model = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match=r"leaves one open.*\(None, None, None, 3\)"):
        convert(model, tmp_path / "model.tflite", "float32")
    artifact = convert(model, tmp_path / "model.tflite", "float32", calibration=images)
    assert artifact.inputs[0].shape == (1, 8, 8, 3)


def test_fixed_batches_are_kept(images, tmp_path: Path):
    inputs = keras.Input(batch_shape=(5, 8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    artifact = convert(model, tmp_path / "model.tflite", calibration=images[:12])
    assert artifact.inputs[0].shape == (5, 8, 8, 3)
    assert artifact.fidelity.samples == 12


def test_bad_arguments(model, images, tmp_path: Path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="Did you mean 'int8'"):
        convert(model, path, "int7")
    with pytest.raises(ValueError, match=r"'int8', 'uint8', 'float32'.*'int4'"):
        convert(model, path, calibration=images, io="int4")
    with pytest.raises(ValueError, match=r"needs `calibration`.*dynamic"):
        convert(model, path)
    with pytest.raises(ValueError, match=r"\(samples, 8, 8, 3\).*\(96, 8, 8\)"):
        convert(model, path, calibration=images[..., 0])
    with pytest.raises(ValueError, match=r"`tolerance` must be a number of at least 0.*-1"):
        convert(model, path, calibration=images, tolerance=-1)
    with pytest.raises(TypeError, match=r"builtins\.int"):
        convert(3, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_source_is_never_overwritten(model, images, tmp_path: Path):
    files = [tmp_path / "model.keras", tmp_path / "model.h5", tmp_path / "model.tflite"]
    for file in files[:2]:
        model.save(file)
    convert(model, files[2], "float32")
    (tmp_path / "link.keras").symlink_to(files[0])
    for file in (*files, tmp_path / "link.keras"):
        before = file.read_bytes()
        for given in (file, f"{tmp_path}/./{file.name}"):
            with pytest.raises(ValueError, match="is the source, which must stay as it is"):
                convert(file, given, calibration=images)
        assert file.read_bytes() == before
    with pytest.raises(ValueError, match="is the source"):
        convert(tmp_path / "link.keras", files[0], "float32")
    saved = tmp_path / "saved"
    model.export(saved, verbose=False)
    before = sorted(saved.rglob("*"))
    for inside in (saved / "saved_model.pb", saved / "assets" / "model.tflite"):
        with pytest.raises(ValueError, match="lies in the folder of the source"):
            convert(saved, inside, "float32")
    assert sorted(saved.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_only_saved_models_have_signatures(model, tmp_path: Path):
    model.save(tmp_path / "model.h5")
    for source in (model, tmp_path / "model.h5"):
        with pytest.raises(ValueError, match=r"signatures of a SavedModel.*'foo'"):
            convert(source, tmp_path / "model.tflite", "float32", signature="foo")


class Branching(Classifier):
    """Its `call` depends on values."""

    def call(self, x):
        return super().call(x if float(keras.ops.sum(x)) > 0 else -x)


def test_model_that_cannot_be_traced_is_told_why(images, tmp_path: Path):
    model = Branching()
    model(images)
    for scheme in ("int8", "w4a8", "float32"):
        with pytest.raises(UntraceableModelError, match="Python branch on tensor values"):
            convert(model, tmp_path / "model.tflite", scheme, images)


def test_model_that_answers_with_nan_is_told_so_and_no_more(images, tmp_path: Path):
    broken = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")])
    broken.layers[0].kernel.assign(np.full((3, 3, 3, 2), np.nan))
    broken.save(tmp_path / "broken.keras")
    for source, advice in (
        (broken, "The first weights that are not finite are 'conv/kernel'."),
        (tmp_path / "broken.keras", "Check its weights and the samples."),
    ):
        with pytest.raises(FidelityError, match="itself answers with NaN") as caught:
            convert(source, tmp_path / "model.tflite", calibration=images)
        assert str(caught.value).endswith(f"nothing to compare the file with. {advice}")


def test_bad_paths(model, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        convert(tmp_path / "nothing.keras", tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="saved_model"):
        convert(tmp_path, tmp_path / "model.tflite")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"`\.keras` or `\.h5`"):
        convert(tmp_path / "model.onnx", tmp_path / "model.tflite")
    (tmp_path / "broken.keras").write_text("not a zip")
    with pytest.raises(ConversionError, match="cannot be loaded"):
        convert(tmp_path / "broken.keras", tmp_path / "model.tflite", "float32")
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError):
        convert(model, tmp_path / "file" / "model.tflite", "float32")


def test_a_failure_leaves_nothing_behind(model, images, tmp_path: Path):
    attributes, weights = sorted(vars(model)), model.get_weights()
    with pytest.raises(FidelityError, match="quanta"):
        convert(model, tmp_path / "model.tflite", calibration=images, tolerance=0.01)
    assert list(tmp_path.iterdir()) == []
    assert sorted(vars(model)) == attributes
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(after, before)


def test_a_failure_of_the_converter_is_an_error_that_names_the_layer(tmp_path: Path):
    sequences = np.random.default_rng(0).random((8, 5, 3), np.float32)
    inputs = keras.Input((5, 3))
    recurrent = keras.layers.LSTM(4, name="memory")
    model = keras.Model(inputs, keras.layers.Dense(2)(recurrent(inputs)))
    # Of a Keras model the loop would be unrolled.
    saved = tmp_path / "saved"
    model.export(saved, verbose=False)
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "model.tflite"
    path.write_bytes(b"as it was")
    with pytest.raises(ConversionError, match=r"memory.*unroll=True"):
        convert(saved, path, calibration=sequences)
    # So is a hang.
    with pytest.raises(ConversionError, match="time_limit"):
        convert(model, path, "float32", time_limit=0.05)
    assert path.read_bytes() == b"as it was"
    assert [entry.name for entry in path.parent.iterdir()] == ["model.tflite"]
    artifact = convert(model, path, "float32", calibration=sequences)
    assert artifact.fidelity.max_relative < 1e-4

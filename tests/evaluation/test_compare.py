import gzip
import shutil

import keras
import numpy as np
import pytest
from sklearn import metrics

from tfcompress.evaluation import LiteRTModel, compare
from tfcompress.evaluation.environment import INTEGER_INSTRUCTIONS
from tfcompress.export.artifact import Artifact
from tfcompress.export.verification import Fidelity


@pytest.fixture(scope="module")
def report(trained):
    return compare(
        {"keras": trained.model, "float": trained.float, "int8": str(trained.int8)},
        trained.data,
        progress=False,
        metadata={"seed": 3},
    )


def test_metrics_are_those_of_scikit_learn(report, trained):
    x, y = trained.data.test
    predicted = LiteRTModel(trained.int8).predict(x).argmax(-1)
    figures = report["int8"].figures
    macro = {"average": "macro", "zero_division": 0}
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted))
    assert figures["precision"] == pytest.approx(metrics.precision_score(y, predicted, **macro))
    assert figures["recall"] == pytest.approx(metrics.recall_score(y, predicted, **macro))
    assert figures["f1"] == pytest.approx(metrics.f1_score(y, predicted, **macro))
    float_predicted = trained.model.predict(x, verbose=0).argmax(-1)
    assert figures["agreement"] == pytest.approx((predicted == float_predicted).mean())
    assert report["int8"].disagreement_count == (predicted != float_predicted).sum()
    assert np.sum(report["int8"].confusion) == 360
    assert figures["accuracy"] > 0.85


def test_the_converted_float_model_is_the_baseline(report):
    assert report.baseline.name == "keras"
    assert report["float"].figures["agreement"] == 1.0
    assert report.deltas("float")["accuracy"] == 0.0
    assert report.deltas("keras")["latency_ms"] == 0.0


def test_sizes(report, trained):
    # 3x3x1x8 + 8 weights in the convolution, 288x10 + 10 in the dense layer.
    parameters = 72 + 8 + 2880 + 10
    assert report["keras"].figures["parameters"] == parameters
    assert report["float"].figures["parameters"] == parameters
    assert report["int8"].figures["parameters"] == parameters
    assert report["keras"].figures["bytes"] is None
    content = trained.int8.read_bytes()
    figures = report["int8"].figures
    assert figures["bytes"] == len(content)
    assert figures["gzip_bytes"] == len(gzip.compress(content, 9, mtime=0))
    # The first entry with a file is the one to be smaller than.
    assert report["float"].figures["ratio"] == 1.0
    assert figures["ratio"] == pytest.approx(trained.float.stat().st_size / len(content))
    assert (report["float"].figures["float_ops"], figures["float_ops"]) == (4, 0)


def test_latency_says_who_ran_it(report):
    assert report["int8"].latency.described == "LiteRT, 1 thread"
    assert report["keras"].latency.runtime.startswith("Keras (")
    assert report["keras"].latency.threads is None
    samples = report["int8"].latency.samples
    assert report["int8"].figures["latency_ms"] == pytest.approx(np.median(samples))
    assert report["int8"].figures["latency_p95_ms"] == pytest.approx(np.percentile(samples, 95))
    assert "do not compare" in str(report)


def test_everything_is_kept(report, trained, tmp_path):
    assert report.data == "digits (test split)"
    assert report.classes == list("0123456789")
    assert report.metadata["seed"] == 3
    environment = report.metadata["environment"]
    assert environment["packages"]["keras"] == keras.__version__
    known = {"unknown", "none", *INTEGER_INSTRUCTIONS}
    assert set(environment["integer_instructions"].split(", ")) <= known
    shown = {str(item.index) for item in report["int8"].disagreements}
    assert shown <= set(report.examples)
    assert report.to_html(tmp_path / "report.html").stat().st_size < 1_000_000


def test_keras_file(trained):
    report = compare({"file": trained.keras}, trained.data, latency=False, progress=False)
    figures = report["file"].figures
    assert figures["bytes"] == trained.keras.stat().st_size
    assert figures["ratio"] == 1.0
    assert "latency_ms" not in figures
    assert report["file"].latency is None


def test_artifact(trained):
    fidelity = Fidelity(1.0, 1.0, 0.1, 0.05, None, 40.0, 1.0, 100, "calibration")
    artifact = Artifact.describe(trained.int8, "int8", "int8", fidelity=fidelity)
    report = compare({"int8": artifact}, trained.data, latency=False, progress=False)
    assert report["int8"].fidelity["max_quanta"] == 1.0
    assert report["int8"].figures["bytes"] == artifact.bytes
    assert report["int8"].figures["nonzeros"] == artifact.nonzeros


def test_data_in_other_forms(trained):
    tf = pytest.importorskip("tensorflow")
    x, y = trained.data.test
    batches = tf.data.Dataset.from_tensor_slices((x, keras.utils.to_categorical(y, 10))).batch(100)
    options = {"latency": False, "progress": False}
    expected = compare({"int8": trained.int8}, "digits", **options).baseline.figures
    for data in ((x, y), (x, y[:, None]), batches, [x, y.tolist()]):
        assert compare({"int8": trained.int8}, data, **options).baseline.figures == expected


def test_binary_classifier():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, "sigmoid")])
    model.set_weights([np.array([[4.0], [0.0]]), np.zeros(1)])
    x = np.array([[-1.0, 0], [1.0, 0], [2.0, 0], [-2.0, 0]])
    report = compare({"a": model}, (x, np.array([0, 1, 0, 0])), latency=False, progress=False)
    assert report.task == "classification"
    assert report["a"].figures["accuracy"] == 0.75
    assert report["a"].confusion == [[2, 1], [0, 1]]


def test_regression():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [1.0]]), np.zeros(1)])
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    report = compare({"a": model}, (x, np.array([2.5, 8.0])), latency=False, progress=False)
    assert report.task == "regression"
    assert report["a"].figures["mae"] == pytest.approx(0.75)
    assert report["a"].figures["mse"] == pytest.approx((0.25 + 1.0) / 2)
    assert "agreement" not in report["a"].figures
    assert report.classes is None


def test_float_labels_of_logits_are_classes():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [-1.0]]), np.zeros(1)])
    x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    data = (x, (x[:, 0] > x[:, 1]).astype("float32"))
    options = {"latency": False, "progress": False}
    report = compare({"a": model}, data, **options)
    assert (report.task, report["a"].figures["accuracy"]) == ("classification", 1.0)
    assert compare({"a": model}, data, task="regression", **options).task == "regression"


def test_integer_samples_are_numbers_and_not_codes(to_tflite, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,), name="x"), keras.layers.Dense(1)])
    x = np.random.default_rng(0).integers(0, 100, (40, 4)).astype("int8")
    path = tmp_path / "int8.tflite"
    path.write_bytes(to_tflite(model, x.astype("float32")))
    runner = LiteRTModel(path)
    assert runner.inputs[0].dtype == "int8"
    assert runner.inputs[0].scale < 0.5
    y = model.predict(x.astype("float32"), verbose=0)
    options = {"latency": False, "progress": False}
    for dtype in ("int8", "float32"):
        report = compare({"float": model, "int8": path}, (x.astype(dtype), y), **options)
        assert report["float"].figures["mae"] == pytest.approx(0, abs=1e-4)
        assert report["int8"].figures["mae"] < 2 * runner.outputs[0].scale


def test_several_inputs(to_tflite, tmp_path):
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    model = keras.Model([left, right], keras.layers.Dense(2, "softmax")(joined))
    path = tmp_path / "two.tflite"
    path.write_bytes(to_tflite(model))
    random = np.random.default_rng(0)
    x = [random.normal(size=(40, 3)), random.normal(size=(40, 2))]
    y = model.predict(x, verbose=0).argmax(-1)
    report = compare({"keras": model}, (x, y), latency=False, progress=False)
    assert report["keras"].figures["accuracy"] == 1.0
    spec_names = [spec.name for spec in LiteRTModel(path).inputs]
    named = {name: x["right" in name or "_1" in name] for name in spec_names}
    report = compare({"file": path}, (named, y), progress=False)
    assert report["file"].figures["accuracy"] == 1.0


def test_pruned_weights_are_counted(trained):
    model = keras.models.clone_model(trained.model)
    model.set_weights(trained.model.get_weights())
    kernel = model.layers[-1].kernel
    values = keras.ops.convert_to_numpy(kernel).copy()
    values[:144] = 0
    kernel.assign(values)
    report = compare({"pruned": model}, trained.data, latency=False, progress=False)
    dense = next(w for w in report["pruned"].weights if w.shape == (288, 10))
    assert dense.nonzeros == 1440
    assert dense.sparsity == 0.5
    assert report["pruned"].figures["nonzeros"] <= 72 + 8 + 1440 + 10


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: y.astype("float32"), "integer class ids"),
        (lambda y: y + 0.5, "integer class ids"),
        (lambda y: y + 5, "lie in 0 … 9"),
        (lambda y: y[:-1], "one length"),
        (lambda y: np.eye(7)[y % 7], "one-hot rows of shape"),
        (lambda y: np.array(list(map(str, y))), "must be numeric"),
    ],
)
def test_labels_that_do_not_fit(trained, labels, message):
    x, y = trained.data.test
    with pytest.raises(ValueError, match=message):
        compare({"int8": trained.int8}, (x, labels(y)), latency=False, progress=False)


def test_files_that_are_not_models(trained, tmp_path):
    data = trained.data
    with pytest.raises(FileNotFoundError, match="no file for entry 'a'"):
        compare({"a": tmp_path / "missing.tflite"}, data)
    truncated = tmp_path / "truncated.tflite"
    truncated.write_bytes(trained.int8.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"truncated\.tflite"):
        compare({"a": truncated}, data)
    text = tmp_path / "text.tflite"
    text.write_text("hello, this is not a model at all")
    with pytest.raises(ValueError, match=r"text\.tflite"):
        compare({"a": text}, data)
    empty = tmp_path / "empty.tflite"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.tflite"):
        compare({"a": empty}, data)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(trained.keras.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cannot be read as a Keras model.*broken\.keras"):
        compare({"a": broken}, data)
    with pytest.raises(ValueError, match="is a folder"):
        compare({"a": tmp_path}, data)


def test_bad_entries_and_data(trained):
    with pytest.raises(ValueError, match="with at least one"):
        compare({}, trained.data)
    with pytest.raises(ValueError, match="must map names"):
        compare([trained.int8], trained.data)
    with pytest.raises(ValueError, match="'a': int"):
        compare({"a": 3}, trained.data)
    with pytest.raises(ValueError, match="never built"):
        compare({"a": keras.Sequential([keras.layers.Dense(1)])}, trained.data)
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        compare({"a": trained.int8}, "digit")
    with pytest.raises(ValueError, match="`data` must be"):
        compare({"a": trained.int8}, 5)
    with pytest.raises(ValueError, match="at least 1"):
        compare({"a": trained.int8}, trained.data, threads=0)
    x = np.zeros((4, 9, 9, 1))
    with pytest.raises(ValueError, match=r"image|shape"):
        compare({"a": trained.int8}, (x, np.zeros(4, int)))


@pytest.mark.parametrize("trained_on", [0, 3])
def test_samples_of_another_shape_are_refused_whatever_ran_before(trained_on):
    model = keras.Sequential([keras.layers.Input((6,), name="x"), keras.layers.Dense(1)])
    for count in range(trained_on):
        # TensorFlow traces shapes ever more loosely, and then fails in the graph.
        model.predict(np.zeros((count + 1, 6)), verbose=0)
    message = r"'a' does not .*'x' takes \(samples, 6\)\. Received: \(samples, 5\)"
    with pytest.raises(ValueError, match=message):
        compare({"a": model}, (np.zeros((4, 5)), np.zeros(4)), progress=False)


def test_other_errors_of_a_model_are_its_own():
    class Broken(keras.layers.Layer):
        def call(self, inputs):
            raise NotImplementedError("not today")

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Broken()(inputs))
    with pytest.raises(NotImplementedError, match="not today"):
        compare({"a": model}, (np.zeros((4, 6)), np.zeros((4, 6))), progress=False)


def test_one_of_several_inputs_of_another_shape_is_named():
    left, right = keras.Input((3,), name="left"), keras.Input((None, 2), name="right")
    mean = keras.layers.GlobalAveragePooling1D()(right)
    joined = keras.layers.Concatenate()([left, mean])
    model = keras.Model([left, right], keras.layers.Dense(1)(joined))
    x = {"left": np.zeros((4, 3)), "right": np.zeros((4, 5, 3))}
    message = r"samples: the input 'right' takes \(samples, any, 2\)\. Received: \(samples, 5, 3\)"
    for given in (x, list(x.values())):
        with pytest.raises(ValueError, match=message):
            compare({"a": model}, (given, np.zeros(4)), progress=False)


def test_several_outputs_are_refused():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match="has 2 outputs"):
        compare({"a": model}, (np.zeros((4, 2)), np.zeros(4, int)))


def test_a_copied_file_is_the_same_entry(trained, tmp_path):
    copy = tmp_path / "model with spaces.tflite"
    shutil.copy(trained.int8, copy)
    report = compare({"a": trained.int8, "b": copy}, trained.data, latency=False, progress=False)
    assert report.deltas("b") == dict.fromkeys(report.deltas("b"), 0.0)

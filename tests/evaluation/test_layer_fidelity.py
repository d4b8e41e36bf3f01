"""`fidelity`: which layer of a file parts from the model first."""

import json
from contextlib import closing

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.evaluation import LiteRTModel
from tfcompress.evaluation.tensor_matching import Point, match
from tfcompress.export.file_parts import Activation
from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
from tfcompress.export.tensor_spec import TensorSpec
from tfcompress.export.verification import FidelityError
from tfcompress.export.worker import ConversionError, Worker
from tfcompress.quantization.calibrate import quantizers_of

X = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small residual network, calibrated, and its file."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    stem = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(image)
    branch = layers.Conv2D(6, 3, padding="same", name="branch")(stem)
    branch = layers.BatchNormalization(name="branch_bn")(branch)
    x = layers.ReLU(name="sum_relu")(layers.Add(name="sum")([stem, branch]))
    x = layers.Concatenate(name="both")([x, stem])
    x = layers.GlobalAveragePooling2D(name="mean")(layers.MaxPooling2D(name="pool")(x))
    outputs = layers.Dense(5, activation="softmax", name="scores")(x)
    model = keras.Model(image, outputs, name="net")
    qat = tfc.quantize_aware(model, "int8", calibration=X, verbose=False)
    path = tmp_path_factory.mktemp("fidelity") / "net.tflite"
    return model, qat, tfc.export(qat, path, calibration=X)


def test_every_quantized_tensor_is_found_and_within_rounding(exported):
    _, qat, artifact = exported
    report = tfc.fidelity(qat, artifact, X)
    assert [row.name for row in report.rows] == [
        "image", "stem", "branch_bn", "sum_relu", "stem, requantized", "mean",
        "scores/pre_activation", "scores",
    ]  # fmt: skip
    assert not any(row.skipped for row in report.rows)
    assert report.rows[0].max_quanta == pytest.approx(0, abs=1e-3)
    # Up to float noise in ties, the file computes what the model does.
    assert report.worst.max_quanta <= 1.01
    assert all(row.off_fraction < 1e-3 for row in report.rows)
    assert (report.first_beyond, report.fallback) == (None, "")
    assert report.verdict() == "All 8 layers found in the file are within 4 quanta."
    assert report.samples == 24


def test_own_kernels_stand_in_where_xnnpack_does_not_run_the_file(exported):
    class Refusing(Worker):
        def call(self, target, /, time_limit=600, **arguments):
            if arguments.get("resolver") == "auto":
                raise ConversionError("no such luck")
            return super().call(target, time_limit, **arguments)

    _, qat, artifact = exported
    with closing(Refusing()) as worker:
        report = tfc.fidelity(qat, artifact, X, worker=worker)
    assert report.fallback == "no such luck"
    assert "own kernels" in str(report)
    assert "no such luck" in " ".join(str(report).split())
    # They round twice, and the share of the zero point in a mean by itself.
    rows = {row.name: row for row in report.rows}
    assert 0.02 < rows["mean"].off_fraction < 0.25
    assert report.worst.max_quanta <= 3.01


def test_report_is_a_table_a_frame_json_and_a_plot(exported):
    _, qat, artifact = exported
    report = tfc.fidelity(qat, artifact.path, X[:9])
    assert max(map(len, str(report).splitlines())) <= 80
    assert list(report.to_frame()["operator"])[1:] == [
        "CONV_2D", "CONV_2D", "ADD", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX",
    ]  # fmt: skip
    assert len(json.loads(json.dumps(report.to_dict()))["rows"]) == 8
    assert "<td>CONV_2D</td>" in report._repr_html_()
    assert len(report.plot().patches) == 8


def test_the_first_layer_that_was_changed_is_named(exported):
    _, qat, artifact = exported
    changed = keras.models.clone_model(qat)
    changed.set_weights(qat.get_weights())
    kernel = changed.get_layer("branch").layer.kernel
    kernel.assign(np.roll(np.asarray(kernel.value), 1, axis=-1))
    report = tfc.fidelity(changed, artifact, X)
    assert report.first_beyond.name == "branch_bn"
    assert "'branch_bn' (BatchNormalization, in the file CONV_2D)" in report.verdict()


def test_failed_export_names_the_layer(exported, tmp_path, monkeypatch):
    model, _, _ = exported
    qat = tfc.quantize_aware(model, "int8", calibration=X, verbose=False)
    from tfcompress.export import deployment

    original = deployment.deployed

    def narrowed(quantizer, name):
        fixed = original(quantizer, name)
        if quantizer.name == "branch_bn_quantizer":
            low, high = fixed.fixed_range
            fixed.fixed_range = (low, high / 4)
        return fixed

    monkeypatch.setattr(deployment, "deployed", narrowed)
    assert "branch_bn_quantizer" in [quantizer.name for quantizer in quantizers_of(qat)]
    with pytest.raises(FidelityError, match="The first layer beyond 4 quanta is 'sum_relu'"):
        tfc.export(qat, tmp_path / "net.tflite", calibration=X)
    assert not list(tmp_path.iterdir())


def test_float_model_against_post_training_file_is_matched_by_name(exported, tmp_path):
    model, _, _ = exported
    artifact = tfc.convert(model, tmp_path / "ptq.tflite", calibration=X)
    report = tfc.fidelity(model, artifact, X, tolerance=50)
    compared = {row.name: row for row in report.rows if not row.skipped}
    assert list(compared) == ["stem", "branch_bn", "sum_relu", "both", "pool", "mean", "scores"]
    assert {n: r.sqnr for n, r in compared.items() if r.sqnr and r.sqnr < 15} == {}


def test_missing_file_and_wrong_data_are_refused(exported, tmp_path):
    _, qat, artifact = exported
    with pytest.raises(FileNotFoundError):
        tfc.fidelity(qat, tmp_path / "none.tflite", X)
    with pytest.raises(ValueError, match="image"):
        tfc.fidelity(qat, artifact, X[..., :2])


def test_tensors_in_the_middle_equal_those_of_a_run_of_the_file(exported):
    _, _, artifact = exported
    model = LiteRTModel(artifact, resolver="builtin", keep_tensors=True)
    last = model._targets[0]
    tensors = model.read_tensors({"image": X[:3]}, [last])
    raw = model.invoke_raw({"image": model.inputs[0].quantize(X[:3])}, resize=False)
    np.testing.assert_array_equal(tensors[last][:, 0], raw["output_0"])


def test_tensors_in_the_middle_are_those_of_the_deployed_kernels(exported):
    _, _, artifact = exported
    plain, kept = LiteRTModel(artifact), LiteRTModel(artifact, keep_tensors=True)
    np.testing.assert_array_equal(kept.predict(X), plain.predict(X))
    parsed = Flatbuffer(read_tflite(artifact.path)[1], str(artifact.path))
    activations = [a for a in parsed.activations() if a.spec.quantized]
    values = kept.read_tensors({"image": X[:5]}, [a.index for a in activations])
    assert all(len(values[a.index]) == 5 for a in activations)
    codes = plain.inputs[0].quantize(X[:5])
    np.testing.assert_array_equal(values[plain._sources[0]][:, 0], codes)
    (relu,) = [a.index for a in activations if a.operator == "ADD"]
    own = LiteRTModel(artifact, resolver="builtin", keep_tensors=True)
    off = own.read_tensors({"image": X[:5]}, [relu])[relu] - values[relu].astype(int)
    # XNNPACK rounds once: the two sets of kernels differ by single quanta at most.
    assert np.abs(off).max() <= 2


def test_ties_are_broken_by_name_and_then_by_values():
    points = [Point("b", "Dense", (0.0, 2.55)), Point("c", "Dense", (0.0, 2.55))]
    files = [
        Activation(i, "FULLY_CONNECTED", TensorSpec(name, (1, 2), "int8", 0.01, -128))
        for i, name in ((1, "net/a_1/MatMul"), (2, "net/b_1/MatMul"), (3, "net/x/MatMul"))
    ]
    seen = {i: np.full((1, 1, 2), -128 + 10 * i, np.int8) for i in (1, 2, 3)}
    expected = {0: np.full((1, 2), 0.1), 1: np.full((1, 2), 0.3)}
    found = match(points, expected, files, seen)
    assert {number: activation.index for number, activation in found.items()} == {0: 2, 1: 3}


def test_masked_values_inside_of_a_layer_are_not_compared():
    def activation(index, operator):
        spec = TensorSpec(f"net/{operator}", (1, 2), "int8", 0.01, -128)
        return Activation(index, operator, spec)

    file = [activation(1, "BATCH_MATMUL"), activation(2, "SELECT_V2")]
    seen = {1: np.full((1, 1, 2), -118, np.int8), 2: np.full((1, 1, 2), -128, np.int8)}
    expected = {0: np.full((1, 2), 0.1)}
    inside = Point("attention/scores", "Attention", (0.0, 2.55), inside=True)
    assert match([inside], expected, file, seen) == {}
    assert "masks it" in inside.absence
    assert list(match([inside], expected, file[:1], seen)) == [0]
    outside = Point("where", "Where", (0.0, 2.55))
    assert match([outside], expected, file, seen)[0].index == 1

"""Layers, weights and calibration of entries."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.evaluation import metrics
from tfcompress.evaluation.file_layers import operator_macs
from tfcompress.evaluation.kernels import Kernel, counterparts, histograms, sqnr
from tfcompress.export.file_parts import Operator


@pytest.fixture(scope="module")
def report(trained):
    entries = {"float": trained.float, "int8": trained.int8, "keras": trained.keras}
    return tfc.compare(entries, trained.data, latency=False, progress=False)


def test_layers_of_a_file(report):
    conv, dense = report["int8"].layers
    assert (conv.operator, dense.operator) == ("CONV_2D", "FULLY_CONNECTED")
    # 3 x 3 x 1 x 8 weights of one byte and 8 biases of four.
    assert (conv.parameters, conv.bits, conv.bytes) == (80, 8, 72 + 32)
    assert (conv.macs, dense.macs) == (6 * 6 * 8 * 9, 288 * 10)
    assert report["int8"].figures["macs"] == 6 * 6 * 8 * 9 + 2880
    assert 0 <= dense.sparsity < 0.1


def test_layers_of_a_keras_model_count_alike(report):
    conv, dense = report["keras"].layers
    assert (conv.operator, dense.operator) == ("Conv2D", "Dense")
    assert [layer.macs for layer in (conv, dense)] == [
        layer.macs for layer in report["float"].layers
    ]
    assert (conv.parameters, conv.bits, conv.bytes) == (80, 32, 320)


def test_sqnr_is_that_of_eight_bits(report):
    for layer in report["int8"].layers:
        assert 35 < layer.sqnr < 60
    assert [layer.sqnr for layer in report["float"].layers] == [None, None]
    # Same weights, in another layout.
    assert [layer.sqnr for layer in report["keras"].layers] == [None, None]


def test_histograms_count_every_weight_that_is_not_zero(report):
    for entry in report.entries:
        for histogram, size in zip(entry.histograms, (72, 2880), strict=True):
            zeros = round(histogram.zeros * size)
            assert sum(histogram.after) == size - zeros
    conv, _ = report["int8"].histograms
    assert (conv.quantized, conv.codes, conv.low, conv.width) == (True, 255, -127.5, 5.0)
    assert sum(conv.before) == 72
    assert not report["float"].histograms[0].quantized


def operator(name, inputs, output, subgraph=0):
    dtypes = ("int8",) * len(inputs)
    return Operator(0, name, subgraph, (), ("y",), dtypes, ("int8",), "integer", inputs, (output,))


@pytest.mark.parametrize(
    ("name", "inputs", "output", "macs"),
    [
        ("CONV_2D", ((1, 8, 8, 3), (16, 3, 3, 3)), (1, 8, 8, 16), 64 * 16 * 27),
        ("DEPTHWISE_CONV_2D", ((1, 8, 8, 6), (1, 3, 3, 6)), (1, 4, 4, 6), 16 * 6 * 9),
        ("FULLY_CONNECTED", ((1, 30), (5, 30)), (1, 5), 150),
        ("CONV_3D", ((1, 4, 4, 4, 2), (3, 3, 3, 2, 5)), (1, 4, 4, 4, 5), 64 * 5 * 54),
        ("TRANSPOSE_CONV", ((4,), (8, 2, 2, 3), (1, 4, 4, 3)), (1, 8, 8, 8), 16 * 3 * 4 * 8),
        ("BATCH_MATMUL", ((1, 2, 7, 5), (1, 2, 5, 9)), (1, 2, 7, 9), 2 * 7 * 5 * 9),
        ("ADD", ((1, 8), (1, 8)), (1, 8), 0),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", ((1, 8, 4),), (1, 8, 4), None),
    ],
)
def test_macs_of_operators(name, inputs, output, macs):
    assert operator_macs(operator(name, inputs, output)) == macs
    # In the body of a loop nobody knows how often it runs.
    assert operator_macs(operator(name, inputs, output, subgraph=1)) == (None if macs else macs)


def test_frame_of_layers(report):
    frame = report.layers()
    assert frame["entry"].tolist() == ["float"] * 2 + ["int8"] * 2 + ["keras"] * 2
    assert {"parameters", "sparsity", "bits", "bytes", "macs", "sqnr"} <= set(frame)


def test_calibration_bins(report):
    bins = report["float"].calibration
    assert sum(item.samples for item in bins) == report.samples
    hits = sum(item.samples * item.accuracy for item in bins)
    assert hits / report.samples == pytest.approx(report["float"].figures["accuracy"])
    assert metrics.calibration_error(bins) == report["float"].figures["calibration_error"]


def test_all_survives_json(report, tmp_path):
    assert tfc.Report.from_json(report.to_json(tmp_path / "report.json")) == report


def kernel(name, values, steps=None, bits=32.0, folded=False):
    return Kernel(name, np.asarray(values, np.float32), steps, bits, folded)


def test_counterparts_are_found_by_values_and_through_folding():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 8, 30)).astype(np.float32)
    factors = rng.uniform(0.5, 2, (8, 1)).astype(np.float32)
    noisy = second * factors + 0.01 * rng.normal(size=(8, 30))
    other = rng.normal(size=(8, 30))
    kernels = [kernel("b", noisy, folded=True), kernel("x", other, folded=True)]
    found = counterparts(kernels, [kernel("one", first), kernel("two", second)])
    assert set(found) == {"b"}
    np.testing.assert_allclose(found["b"], second * factors, atol=0.05)
    assert 35 < sqnr(found["b"], noisy) < 50
    assert sqnr(first, first) is None


def test_single_values_are_not_scaled_to_whatever_is_there():
    first, second = np.array([[5.0], [-7.0]]), np.array([[1.0], [2.0]])
    noisy = second + np.array([[0.01], [-0.01]])
    found = counterparts(
        [kernel("b", noisy, folded=True)], [kernel("one", first), kernel("two", second)]
    )
    np.testing.assert_array_equal(found["b"], second)
    assert 40 < sqnr(found["b"], noisy) < 50


def test_a_kernel_with_one_unit_is_a_kernel(to_tflite, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((6,), name="x"), keras.layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    path = tmp_path / "int8.tflite"
    path.write_bytes(to_tflite(model, x))
    half = tfc.convert(model, tmp_path / "float16.tflite", "float16", calibration=x)
    report = tfc.compare(
        {"keras": model, "int8": path, "float16": half},
        (x, model.predict(x, verbose=0)),
        latency=False,
        progress=False,
    )
    for entry in report.entries:
        (histogram,) = entry.histograms
        assert sum(histogram.after) + round(6 * histogram.zeros) == 6
        assert report.plot("weights", entry=entry.name).has_data()
        assert len(report.plot("sparsity", entry=entry.name).get_yticklabels()) == 1
    assert 30 < report["int8"].layers[0].sqnr < 70


def test_a_vector_that_broadcasts_is_none(to_tflite, tmp_path):
    inputs = keras.Input((4, 4, 3), name="x")
    slopes = keras.initializers.RandomUniform(0.1, 0.5, seed=0)
    outputs = keras.layers.PReLU(slopes, shared_axes=(1, 2))(inputs)
    model = keras.Model(inputs, outputs)
    path = tmp_path / "prelu.tflite"
    path.write_bytes(to_tflite(model))
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype("float32")
    report = tfc.compare({"keras": model, "file": path}, (x, x), latency=False, progress=False)
    for entry in report.entries:
        assert [weight.shape for weight in entry.weights] == [(1, 1, 3)]
        assert entry.histograms == []
        for kind in ("weights", "sparsity"):
            with pytest.raises(ValueError, match=r"has no kernels, only vectors"):
                report.plot(kind, entry=entry.name)


@pytest.mark.parametrize(("bits", "codes", "bins"), [(8, 255, 51), (4, 15, 15), (2, 3, 3)])
def test_histograms_have_a_bin_for_a_whole_number_of_codes(bits, codes, bins):
    most = codes // 2
    values = np.arange(-most, most + 1, dtype=np.float32)[None] * 0.5
    (found,) = histograms([kernel("w", values, np.array([0.5]), float(bits))], {})
    assert (found.codes, len(found.after), found.step) == (codes, bins, 0.5)
    per_bin = codes // bins
    # The middle bin lacks the zero, which is counted apart.
    assert set(found.after) <= {per_bin, per_bin - 1}
    assert found.zeros == pytest.approx(1 / codes)


def test_a_fidelity_report_goes_into_the_report(trained, tmp_path):
    found = tfc.FidelityReport((), tolerance=4.0, samples=8)
    arguments = {"latency": False, "progress": False}
    report = tfc.compare(
        {"int8": trained.int8}, trained.data, fidelity={"int8": found}, **arguments
    )
    assert report["int8"].layer_fidelity == []
    with pytest.raises(ValueError, match="by the names of entries"):
        tfc.compare({"int8": trained.int8}, trained.data, fidelity={"int4": found}, **arguments)

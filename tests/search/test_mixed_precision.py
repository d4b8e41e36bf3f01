"""8 or 4 bits for every layer, under a budget."""

import importlib

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.search import mixed_precision
from tfcompress.search.methods import Bits


def trained(digits, build):
    model = build(filters=8)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits.train.x, digits.train.y, epochs=3, verbose=0)
    return model


@pytest.fixture
def without_conversion(monkeypatch):
    """Count bytes as if a file had 2,000 bytes beside its kernels."""
    module = importlib.import_module("tfcompress.search.mixed_precision")

    def reference(model, samples, io):
        grids = [grid for wrapper in wrappers_of(model) for grid in wrapper.kernel_grids()]
        sizes = {grid.name: grid.codes.size for grid in grids}
        return 2000 + sum(sizes.values()), {name: size // 2 for name, size in sizes.items()}

    monkeypatch.setattr(module, "_reference_file", reference)


def test_the_file_keeps_its_bytes_and_has_the_size_that_was_expected(
    digits, tiny_cnn, tmp_path, capsys
):
    model = trained(digits, tiny_cnn)
    x, y = digits.train.x[:128], digits.train.y[:128]
    path = tmp_path / "auto.tflite"
    artifact = tfc.convert(model, path, "auto", (x, y), max_bytes=4000)
    assert artifact.bytes <= 4000
    printed = capsys.readouterr().out
    assert "Mixed precision of 'tiny_cnn' by mixed" in printed
    expected = int(artifact.notes[0].split(", ")[1].split(" ")[0].replace(",", ""))
    assert artifact.bytes == pytest.approx(expected, rel=0.02)
    # The 1,280 weights of the dense layer; the 72 of the convolution are not needed.
    assert artifact.weight_bytes["int4"] == 1280 // 2
    assert artifact.notes[1].startswith("Pareto curve")
    assert tfc.Artifact.load(path) == artifact


def test_the_layer_that_costs_least_gets_4_bits(digits, tiny_cnn, without_conversion):
    model = tiny_cnn()
    x = digits.train.x[:64]
    # 36 and 640 weights; what the alignment of a file may take is left as room.
    found = mixed_precision(model, x, max_bytes=2000 + 36 + 320 + 16)
    assert found.bits == {"conv": 8, "logits": 4}
    assert found.bytes == 2000 + 36 + 320
    rows = {row.layer: row for row in found.layers}
    assert rows["logits"].costs[4] > rows["logits"].costs[8] > 0
    assert [point.bytes for point in found.points] == sorted(
        (point.bytes for point in found.points), reverse=True
    )
    assert found.points[0].bits == {"conv": 8, "logits": 8}
    assert found.points[-1].bits == {"conv": 4, "logits": 4}
    assert max(map(len, str(found).splitlines())) <= 80
    assert list(found.to_frame()["bits"]) == [8, 4]
    assert len(found.pareto_frame()) == len(found.points)
    assert found.plot().get_xlabel() == "file size, kB"
    quantized = tfc.quantize_aware(model, found.scheme, calibration=x, verbose=False)
    assert {
        name: quantized.get_layer(name).weight_bits for name in ("conv", "logits")
    } == found.bits


def test_the_strategies_differ_in_what_they_know(digits, tiny_cnn, without_conversion):
    model = tiny_cnn()
    x = digits.train.x[:64]
    alike = mixed_precision(model, x, max_bytes=2500, strategy="global")
    assert alike.bits == {"conv": 4, "logits": 4}
    by_weights = mixed_precision(model, x, max_bytes=2400, strategy="distribution")
    kernel = model.get_layer("logits").kernel.numpy()
    layer = next(la for la in Bits().layers(model) if la.name == "logits")
    ((_, value),) = Bits().values(layer, 4)
    noise = np.sum((value - kernel) ** 2) / np.sum(kernel**2)
    cost = {row.layer: row.costs[4] for row in by_weights.layers}
    assert cost["logits"] == pytest.approx(noise, rel=1e-3)


def test_a_budget_of_accuracy_is_tried_on_the_samples(digits, tiny_cnn, without_conversion):
    model = trained(digits, tiny_cnn)
    x, y = digits.train.x[:128], digits.train.y[:128]
    generous = mixed_precision(model, (x, y), max_drop=0.5)
    assert generous.bits == {"conv": 4, "logits": 4}
    assert generous.metric == "accuracy"
    assert generous.drop <= 0.5


def test_budgets_that_cannot_be_kept_say_what_can(digits, tiny_cnn, without_conversion):
    model, x = tiny_cnn(), digits.train.x[:32]
    with pytest.raises(ValueError, match="the file has about 2,338 bytes"):
        mixed_precision(model, x, max_bytes=2000)
    with pytest.raises(ValueError, match="exactly one budget"):
        mixed_precision(model, x)
    with pytest.raises(ValueError, match="`strategy` must be one of"):
        mixed_precision(model, x, max_bytes=1, strategy="best")
    with pytest.raises(ValueError, match="budgets of the scheme 'auto'"):
        tfc.convert(model, "never.tflite", calibration=x, max_bytes=10)
    with pytest.raises(ValueError, match="needs `calibration`"):
        tfc.convert(model, "never.tflite", "auto", max_bytes=10)


@pytest.mark.slow
def test_layers_go_to_float_where_8_bits_lose_too_much(digits, tiny_cnn, without_conversion):
    model, x = tiny_cnn(), digits.train.x[:32]
    # Codes of one range for all channels, of which one is a thousand times the others.
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * np.array([1000.0, 1, 1, 1], "float32"))
    dense = model.get_layer("logits").kernel
    scale = np.tile(np.array([1e-3, 1, 1, 1], "float32"), 16)[:, None]
    dense.assign(dense * scale)
    eight = mixed_precision(model, x, max_drop=1.0, metric="noise").points[0]
    lost = 0.9 * _noise(model, x)
    found = mixed_precision(model, x, max_drop=lost, metric="noise")
    assert eight.bits == {"conv": 8, "logits": 8}
    assert 32 in found.bits.values()
    assert found.drop <= lost
    with pytest.raises(ValueError, match="Train quantization-aware"):
        mixed_precision(model, x, max_drop=0.0, metric="noise")


def _noise(model, x):
    """Noise of the outputs with 8 bits everywhere."""
    quantized = tfc.quantize_aware(model, calibration=x, verbose=False)
    logits = [np.log(np.clip(np.asarray(m(x), "float64"), 1e-7, 1)) for m in (model, quantized)]
    logits = [values - values.mean(1, keepdims=True) for values in logits]
    return np.sum((logits[0] - logits[1]) ** 2) / np.sum(logits[0] ** 2)

"""What compressing one layer at a time costs."""

import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.quantization.fake_quant import fake_quant_weight
from tfcompress.search import Sensitivity, SensitivityPoint, sensitivity
from tfcompress.search.predictor import Predictor

LEVELS = {"sparsity": (0.5, 0.9), "bits": (8, 4, 2)}


@pytest.fixture
def model(tiny_cnn):
    return tiny_cnn()


@pytest.fixture
def data(digits):
    return digits.train.x[:96], digits.train.y[:96]


def test_every_layer_and_level_is_measured_and_the_weights_come_back(model, data):
    before = [w.copy() for w in model.get_weights()]
    found = sensitivity(model, data, levels=LEVELS, progress=False)
    assert [(p.method, p.layer, p.level) for p in found.points] == [
        (method, layer, level)
        for method, levels in LEVELS.items()
        for layer in ("conv", "logits")
        for level in levels
    ]
    assert (found.metric, found.samples, found.better) == ("accuracy", 96, 1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [p.weights for p in found.points][:3] == [36, 36, 640]


def test_figures_are_those_of_the_changed_model(model, data, tiny_cnn):
    found = sensitivity(model, data, "bits", {"bits": (8,)}, progress=False)
    x, y = data
    changed = tiny_cnn()
    kernel = changed.get_layer("logits").kernel
    kernel.assign(fake_quant_weight(kernel.numpy(), (-1,), 8))
    before, after = np.asarray(model(x)), np.asarray(changed(x))
    point = found.curves("bits")["logits"][0]
    assert point.value == pytest.approx((after.argmax(1) == y).mean())
    logits = [np.log(p) - np.log(p).mean(1, keepdims=True) for p in (before, after)]
    noise = np.sum((logits[0] - logits[1]) ** 2) / np.sum(logits[0] ** 2)
    assert point.sqnr == pytest.approx(-10 * np.log10(noise), abs=0.05)
    assert point.drop == pytest.approx(found.baseline - point.value)


def test_harsher_levels_cost_more_noise(model, data):
    found = sensitivity(model, data, levels=LEVELS, progress=False)
    for method in found.methods:
        for points in found.curves(method).values():
            noise = [point.noise for point in points]
            assert noise == sorted(noise)


def test_weights_come_back_when_the_measurement_fails(model, data):
    before = [w.copy() for w in model.get_weights()]
    calls = []

    def metric(labels, outputs):
        calls.append(outputs)
        if len(calls) > 2:
            raise RuntimeError("out of luck")
        return 0.0

    with pytest.raises(RuntimeError, match="out of luck"):
        sensitivity(model, data, metric=metric, progress=False)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_cache_goes_on_where_it_was_interrupted(model, data, tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache.json"
    whole = sensitivity(model, data, levels=LEVELS, progress=False)
    call, calls = Predictor.__call__, []

    def stop_after_five(self):
        calls.append(self)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return call(self)

    monkeypatch.setattr(Predictor, "__call__", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, data, levels=LEVELS, cache=cache, progress=False)
    assert len(next(iter(json.loads(cache.read_text())["measurements"].values()))) == 4
    calls.clear()
    monkeypatch.setattr(Predictor, "__call__", lambda self: (calls.append(0), call(self))[1])
    assert sensitivity(model, data, levels=LEVELS, cache=cache, progress=False) == whole
    # The model as it is, and six of ten measurements.
    assert len(calls) == 7
    calls.clear()
    sensitivity(model, data, levels=LEVELS, cache=cache, progress=False)
    assert len(calls) == 1
    # Other weights are another model.
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * 0.5)
    calls.clear()
    sensitivity(model, data, "bits", {"bits": (8,)}, cache=cache, progress=False)
    assert len(calls) == 3


def test_another_file_is_not_taken_for_a_cache(model, data, tmp_path):
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(ValueError, match="`cache` must be a file that an earlier search wrote"):
        sensitivity(model, data, cache=other)
    assert other.read_text() == "{}"


def test_channels_go_with_all_that_depends_on_them(data, tiny_cnn):
    model = tiny_cnn()
    found = sensitivity(model, data, "channels", {"channels": (0.5, 0.75)}, progress=False)
    assert [(p.layer, p.level) for p in found.points] == [("conv", 0.5), ("conv", 0.75)]
    smaller = tfc.shrink(tiny_cnn(), sparsity=0.5, round_to=1, verbose=False)
    expected = (np.asarray(smaller(data[0])).argmax(1) == data[1]).mean()
    assert found.points[0].value == pytest.approx(expected)
    assert "50%" in str(found)


def test_without_labels_the_models_own_predictions_count(model, data):
    found = sensitivity(model, data[0], "bits", {"bits": (8, 2)}, progress=False)
    assert (found.metric, found.baseline) == ("agreement", 1.0)


def test_a_regression_loses_by_its_squared_error():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(8, "relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="y")(hidden))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = np.asarray(model(x)) + 0.1
    found = sensitivity(model, (x, y), "sparsity", {"sparsity": (0.5,)}, progress=False)
    assert (found.metric, found.better) == ("mse", -1)
    assert found.baseline == pytest.approx(0.01, rel=1e-3)
    assert all(p.drop == pytest.approx(p.value - found.baseline) for p in found.points)


def test_it_prints_in_80_columns_and_draws_a_heat_map(model, data):
    found = sensitivity(model, data, progress=False)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "logits" in text
    assert "95%" in text
    ax = found.plot("bits", "sqnr")
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "8",
        "7",
        "6",
        "5",
        "4",
        "3",
        "2",
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conv", "logits"]
    assert found._repr_html_().count("<table") == 2
    frame = found.to_frame()
    assert len(frame) == 2 * (8 + 7)
    with pytest.raises(ValueError, match="measured are"):
        found.plot("channels")
    with pytest.raises(ValueError, match="`figure` must be one of"):
        found.plot(figure="loss")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": "spars"}, "`methods` must be among 'sparsity', 'bits', 'channels'"),
        ({"methods": ()}, "at least one method"),
        ({"levels": {"bits": (9,)}}, "from 2 to 8"),
        ({"levels": {"sparsity": (1.0,)}}, "in \\(0, 1\\)"),
        ({"methods": "bits", "levels": {"sparsity": (0.5,)}}, "`levels` must be about"),
        ({"metric": "f1"}, "`metric` must be one of"),
    ],
)
def test_wrong_settings_are_refused(model, data, settings, said):
    with pytest.raises(ValueError, match=said):
        tfc.sensitivity(model, data, progress=False, **settings)


def curves(**layers):
    """A search result from `{layer: (weights, {sparsity: noise})}`."""
    return Sensitivity(
        "m",
        "accuracy",
        1,
        1.0,
        10,
        tuple(
            SensitivityPoint("sparsity", layer, level, weights, 1.0, 0.0, -10 * np.log10(noise))
            for layer, (weights, points) in layers.items()
            for level, noise in points.items()
        ),
    )


def test_sparsities_go_where_they_cost_least():
    found = curves(
        cheap=(100, {0.5: 1e-4, 0.9: 2e-4}),
        dear=(100, {0.5: 1e-2, 0.9: 1e-1}),
    )
    assert found.sparsities(0.45) == pytest.approx({"cheap": 0.9, "dear": 0.0})
    assert found.sparsities(0.7) == pytest.approx({"cheap": 0.9, "dear": 0.5})
    assert found.sparsities(0.9) == pytest.approx({"cheap": 0.9, "dear": 0.9})
    assert found.sparsities(0.0) == {"cheap": 0.0, "dear": 0.0}
    with pytest.raises(ValueError, match=r"from 0 to 0\.9"):
        found.sparsities(0.91)


def test_sparsities_add_up_to_the_target_over_the_weights():
    found = curves(small=(10, {0.5: 0.1, 0.9: 0.3}), large=(1000, {0.5: 0.2, 0.9: 0.9}))
    for target in (0.1, 0.33, 0.77):
        shares = found.sparsities(target)
        assert 10 * shares["small"] + 1000 * shares["large"] == pytest.approx(1010 * target)


def bits(**layers):
    """A search result from `{layer: (weights, {bits: (noise, drop)})}`."""
    points = [
        SensitivityPoint("bits", layer, level, weights, 1 - drop, drop, -10 * np.log10(noise))
        for layer, (weights, levels) in layers.items()
        for level, (noise, drop) in levels.items()
    ]
    return Sensitivity("m", "accuracy", 1, 1.0, 10, tuple(points))


def test_bits_are_the_best_within_the_bytes():
    found = bits(
        first=(100, {8: (1e-6, 0.0), 4: (1e-2, 0.02)}),
        second=(200, {8: (1e-6, 0.0), 4: (1e-3, 0.001)}),
        third=(150, {8: (1e-6, 0.0), 4: (3e-3, 0.004)}),
    )
    assert found.bits(max_bytes=450) == {"first": 8, "second": 8, "third": 8}
    assert found.bits(max_bytes=350) == {"first": 8, "second": 4, "third": 8}
    # One step along the curves is not enough: the second alone saves 100 bytes.
    assert found.bits(max_bytes=349) == {"first": 8, "second": 4, "third": 4}
    assert found.bits(max_bytes=375) == {"first": 8, "second": 4, "third": 8}
    assert found.bits(max_drop=0.0045) == {"first": 8, "second": 4, "third": 8}
    assert found.bits(max_drop=0.005) == {"first": 8, "second": 4, "third": 4}
    with pytest.raises(ValueError, match="the least that is possible is 225"):
        found.bits(max_bytes=200)
    with pytest.raises(ValueError, match="Exactly one of"):
        found.bits()
    with pytest.raises(ValueError, match="`by` must be one of"):
        found.bits(max_bytes=400, by="loss")

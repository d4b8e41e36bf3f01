"""Plans, artifacts and fidelity reports that show themselves."""

import keras
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.evaluation import FidelityReport, TensorFidelity
from tfcompress.text_table import render


@pytest.fixture(scope="module")
def plan():
    long = "a_convolution_with_a_name_that_goes_on_and_on"
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name=long),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )
    return tfc.plan(model, [tfc.callbacks.MagnitudePruning(0.8, exclude="head"), "int8"])


def test_plan_fits_a_terminal(plan):
    text = str(plan)
    assert max(map(len, text.splitlines())) <= 80
    assert max(map(len, plan.summary().splitlines())) <= 80
    assert repr(plan) == text
    assert "head/kernel" in text
    assert "sparsity 0.8" in " ".join(text.split())


def test_plan_plot_has_a_bar_for_each_weight(plan):
    axes = plan.plot()
    assert sorted(bar.get_width() for bar in axes.patches) == [2, 4, 108, 288]
    groups = {text.get_text() for text in axes.get_legend().get_texts()}
    assert groups == {"prune + quantize", "quantize"}
    assert plan.plot(axes) is axes


def test_fidelity_report_fits_a_terminal():
    rows = (
        TensorFidelity("conv", "Conv2D", "CONV_2D", 0.1, 1.0, 0.01, 0.02, 40.0),
        TensorFidelity("other", "Lambda", skipped="word " * 30),
    )
    report = FidelityReport(rows, 4.0, 8)
    assert max(map(len, str(report).splitlines())) <= 80
    assert repr(report) == str(report)
    assert report.plot().patches[0].get_width() == 1.0


def test_artifact_shows_its_layers(trained, tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(trained.int8.read_bytes())
    artifact = tfc.Artifact.describe(path, "int8", "int8")
    frame = artifact.to_frame()
    assert frame["macs"].tolist() == [6 * 6 * 8 * 9, 2880]
    assert frame["bytes"].sum() == sum(artifact.weight_bytes.values())
    widths = [bar.get_width() for bar in artifact.plot().patches]
    assert sum(widths) == pytest.approx(200)
    assert max(map(len, repr(artifact).splitlines()[1:])) <= 80


def test_tables_wrap_the_widest_columns():
    text = render(["name", "what"], [["a", "one two three four five six seven"]], width=24)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 24
    assert " ".join(" ".join(line[6:] for line in lines[2:]).split()) == (
        "one two three four five six seven"
    )
    assert render(["a"], [["b"]]) == "a\n─\nb"

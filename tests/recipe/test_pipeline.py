"""A recipe from its text to its report."""

import json

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.recipe import Recipe

STAGES = """
train: {epochs: 2, learning_rate: 5.0e-3}
prune: {sparsity: 0.8, epochs: 2, learning_rate: 5.0e-3}
quantize: {epochs: 1, learning_rate: 1.0e-3, calibration_samples: 64}
compare: {latency: false}
"""


@pytest.fixture(scope="module")
def recipe(tiny):
    return Recipe.from_yaml(tiny + STAGES)


@pytest.fixture(scope="module")
def result(recipe, tmp_path_factory):
    return tfc.run(recipe, output=tmp_path_factory.mktemp("runs") / "tiny", verbose=False)


pytestmark = pytest.mark.slow


def test_the_report_has_the_three_rows(result):
    assert list(result.artifacts) == ["float32", "int8 post-training", "pruned 80% + int8 QAT"]
    assert [entry.name for entry in result.report.entries] == list(result.artifacts)


def test_every_int8_file_has_no_float_operator(result):
    for name in ("int8 post-training", "pruned 80% + int8 QAT"):
        assert result.artifacts[name].float_islands == []


def test_the_asked_sparsity_is_in_the_file(result):
    # 4 + 8 filters of 3 × 3 and the two dense layers: 36 + 288 + 128·16 + 16·10 kernel weights.
    inspection = tfc.inspect_file(result.artifacts["pruned 80% + int8 QAT"].path)
    kernels = [w for w in inspection.weights if len(w.shape) > 1]
    total = sum(w.size for w in kernels)
    zeros = sum(round(w.zeros * w.size) for w in kernels)
    assert total == 36 + 288 + 128 * 16 + 16 * 10
    # Quantization may round further weights to zero, but never gives one back.
    assert zeros / total >= 0.8 - 1 / total
    assert zeros / total <= 0.85


def test_the_file_predicts_what_the_trained_model_predicts(result, digits):
    from tfcompress.evaluation import LiteRTModel

    x, y = digits.test
    model = keras.models.load_model(result.folder / "models" / "quantized.keras", compile=False)
    expected = model.predict(x, verbose=0)
    found = LiteRTModel(result.artifacts["pruned 80% + int8 QAT"].path).predict(x)
    # Softmax leaves in steps of 1/256.
    assert np.abs(expected - found).max() * 256 <= 4.5
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.995
    difference = (expected.argmax(1) == y).mean() - (found.argmax(1) == y).mean()
    assert abs(difference) <= 0.003


def test_the_folder_holds_what_is_promised(result):
    names = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert names == {
        "artifacts/float32.tflite",
        "artifacts/float32.tflite.json",
        "artifacts/int8_post_training.tflite",
        "artifacts/int8_post_training.tflite.json",
        "artifacts/pruned_qat_int8.tflite",
        "artifacts/pruned_qat_int8.tflite.json",
        "environment.json",
        "models/float.keras",
        "models/pruned.keras",
        "models/quantized.keras",
        "plan.txt",
        "plan.yaml",
        "recipe.yaml",
        "report.html",
        "report.json",
        "state.json",
    }


def test_the_folder_says_what_was_run_on_what(result, recipe):
    assert Recipe.load(result.folder / "recipe.yaml") == recipe
    facts = json.loads((result.folder / "environment.json").read_text())
    assert facts["seed"] == 3
    assert {"tensorflow", "keras", "ai-edge-litert", "numpy"} <= set(facts["packages"])
    assert "conv1/kernel" in (result.folder / "plan.txt").read_text()
    assert tfc.Plan.from_yaml((result.folder / "plan.yaml").read_text()).rows


def test_what_the_file_must_be_fed_is_in_its_sidecar(result):
    artifact = result.artifacts["pruned 80% + int8 QAT"]
    sidecar = json.loads(artifact.path.with_name(artifact.path.name + ".json").read_text())
    assert sidecar["preprocessing"]["scale"] == 1 / 16


def test_it_is_not_overwritten_silently(result, recipe):
    with pytest.raises(FileExistsError, match="--resume"):
        tfc.run(recipe, output=result.folder, verbose=False)


def test_resuming_a_finished_run_changes_no_model(result, recipe):
    def snapshot():
        files = [*result.folder.glob("models/*"), *result.folder.glob("artifacts/*")]
        return {path: path.read_bytes() for path in files}

    before = snapshot()
    again = tfc.run(recipe, output=result.folder, resume=True, verbose=False)
    assert snapshot() == before
    for entry, other in zip(result.report.entries, again.report.entries):
        assert entry.name == other.name
        assert entry.figures == other.figures


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"architecture": "resnet9"}}, "did you mean 'resnet8'"),
        ({"train": {"optimizer": "adm"}}, "Keras knows no optimizer of this name. Received: 'adm'"),
        ({"train": {"loss": "crossentropie"}}, "Keras knows no loss of this name"),
        ({"train": {"metrics": ["acuracy"]}}, "Keras knows no metric of this name"),
        ({"prune": {"sparsity": 0.5, "schedule": "polinomial"}}, "polynomial"),
        ({"quantize": {"scheme": "int9"}}, "int8"),
    ],
)
def test_wrong_names_are_found_before_anything_is_written(change, said, recipe, tmp_path):
    values = recipe.model_dump() | change
    with pytest.raises(ValueError, match=said):
        tfc.run(values, output=tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()

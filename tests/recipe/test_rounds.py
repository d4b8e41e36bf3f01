"""Rounds of pruning, fine-tuning, quantization and measuring."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.recipe import Recipe, rounds
from tfcompress.recipe.job import Job
from tfcompress.recipe.rounds import RoundResult, kept_round, round_results, share_left
from tfcompress.recipe.run_folder import RunFolder
from tfcompress.recipe.sequence import stages

RECIPE = """
version: 1
name: rounds
seed: 3
data: {source: digits, batch_size: 64, validation: 0.2}
model: {architecture: digits_cnn, arguments: {filters: [4, 8], units: 16}}
train: {epochs: 3, learning_rate: 5.0e-3}
prune: {sparsity: 0.875, epochs: 2, learning_rate: 5.0e-3}
quantize: {epochs: 1, learning_rate: 1.0e-3, calibration_samples: 64}
iterative: {rounds: 3, max_drop: 0.5, parameters: 800}
export: {baselines: [float32]}
compare: {latency: false}
"""


def result(number, **changes):
    facts = {
        "number": number,
        "removed": 0.5,
        "parameters": 100,
        "bytes": 1000,
        "gzip_bytes": 900,
        "metric": "accuracy",
        "value": 0.95,
        "drop": 0.005,
        "kept": True,
        "ends": "",
    }
    return RoundResult(**{**facts, **changes})


def test_each_round_prunes_the_same_share_of_what_is_left():
    recipe = Recipe.from_yaml(RECIPE)
    assert [share_left(recipe, n) for n in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.125])


def test_rounds_of_channels_take_the_same_share_of_the_channels():
    text = RECIPE.replace("prune: {sparsity: 0.875,", "shrink: {macs: 0.125,")
    found = stages(Recipe.from_yaml(text))
    titles = [stage.title for stage in found if stage.name.endswith("shrink")]
    assert titles == [f"round{n} shrink: macs 0.5, 2 epochs" for n in (1, 2, 3)]


def test_rounds_replace_the_single_stages():
    names = [stage.name for stage in stages(Recipe.from_yaml(RECIPE))]
    assert names == ["train", "export float32"] + [
        f"round{number} {step}" for number in (1, 2, 3) for step in ("prune", "quantize", "measure")
    ]


def test_the_last_round_within_the_budget_is_kept():
    assert kept_round([]) is None
    assert kept_round([result(1), result(2), result(3, kept=False)]).number == 2
    assert kept_round([result(1, kept=False)]) is None


def test_layers_go_before_channels_and_channels_before_weights():
    text = RECIPE.replace("iterative: {rounds: 3, max_drop: 0.5, parameters: 800}", "")
    text = text.replace("prune:", "remove_layers: {n: 1}\nshrink: {macs: 0.5}\nprune:")
    assert [stage.name for stage in stages(Recipe.from_yaml(text))] == [
        "train",
        "remove layers",
        "shrink",
        "prune",
        "quantize",
        "export float32",
        "export compressed",
    ]


def test_rounds_after_the_one_that_ended_have_nothing_to_do(tmp_path):
    recipe = Recipe.from_yaml(RECIPE)
    folder = RunFolder(tmp_path / "run", recipe)
    job = Job(recipe, folder, verbose=0)
    folder.finish("round1 measure", vars(result(1)))
    folder.finish("round2 measure", vars(result(2, ends="round 2 met the target")))
    needless = {stage.name: stage.needless(job) for stage in stages(recipe)}
    assert needless["round1 prune"] == needless["round2 quantize"] == ""
    assert needless["round3 prune"] == needless["round3 measure"] == "round 2 met the target"
    assert [found.number for found in round_results(folder)] == [1, 2]


def test_a_budget_of_accuracy_needs_validation_samples(tmp_path):
    text = RECIPE.replace(", validation: 0.2", "")
    with pytest.raises(ValueError, match=r"Set `data\.validation`"):
        tfc.run(Recipe.from_yaml(text), output=tmp_path / "run", verbose=False)


@pytest.mark.slow
def test_rounds_go_on_after_an_interruption_and_end_at_the_target(tmp_path, monkeypatch):
    recipe = Recipe.from_yaml(RECIPE)
    folder = tmp_path / "run"

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        whole = rounds.export_model
        patch.setattr(rounds, "export_model", lambda *a: whole(*a) if a[2] == "round1" else fail())
        with pytest.raises(KeyboardInterrupt):
            tfc.run(recipe, output=folder, verbose=False)
    before = {path: path.read_bytes() for path in folder.glob("models/round*")}
    assert len(before) == 4
    assert (folder / "artifacts" / "round1.tflite").is_file()

    done = tfc.run(recipe, output=folder, resume=True, verbose=False)
    assert {path: path.read_bytes() for path in folder.glob("models/round*")} == before
    # 2,532 kernel weights; a quarter of them and the biases are under 800, half of them are not.
    assert [found.number for found in done.rounds] == [1, 2]
    assert done.rounds[0].parameters > 800 >= done.rounds[1].parameters
    assert done.rounds[1].ends == "round 2 met the target"
    assert list(done.artifacts) == ["float32", "round 1: 50%", "round 2: 75%, kept"]
    assert done.kept.path == folder / "artifacts" / "round2.tflite"
    assert done.kept.float_islands == []
    assert "Round 2 is kept: round 2 met the target." in str(done)
    assert "round 2" in done.report.metadata
    assert not (folder / "backup").exists()

    pruned = keras.models.load_model(folder / "models" / "round2_pruned.keras", compile=False)
    first = keras.models.load_model(folder / "models" / "round1_pruned.keras", compile=False)
    kernels = [v for v in pruned.trainable_variables if len(v.shape) > 1]
    zeros = sum(int((v.numpy() == 0).sum()) for v in kernels)
    assert zeros / sum(v.numpy().size for v in kernels) == pytest.approx(0.75, abs=1e-3)
    for new, old in zip(pruned.trainable_variables, first.trainable_variables, strict=True):
        if len(new.shape) > 1:
            # What was pruned in the first round stays so.
            assert not np.any((old.numpy() == 0) & (new.numpy() != 0))

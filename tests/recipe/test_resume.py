"""Killed at any moment and resumed: same sparsity, valid files, nothing half-written."""

import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.recipe import Recipe

STAGES = """
train: {epochs: 3, learning_rate: 5.0e-3}
prune: {sparsity: 0.7, epochs: 4, learning_rate: 5.0e-3}
quantize: {epochs: 2, learning_rate: 1.0e-3, calibration_samples: 64}
export: {baselines: [float32]}
compare: {latency: false}
"""

# A run is killed a moment after each of these has appeared: places spread over all stages.
MOMENTS = (
    "state.json",
    "backup/train/epoch-00002.weights.h5",
    "backup/prune/epoch-00001.weights.h5",
    "models/pruned.keras",
    "backup/quantize/epoch-00001.weights.h5",
    "artifacts/pruned_qat_int8.tflite",
)

SCRIPT = """
import sys
import tfcompress as tfc
tfc.run(sys.argv[1], output=sys.argv[2], resume=True, verbose=False)
"""


def killed(recipe, folder, moment, delay, deadline=300):
    """Run or resume, kill `delay` seconds after a file has appeared; tell whether it was killed."""
    command = [sys.executable, "-c", SCRIPT, str(recipe), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + deadline
    while not (folder / moment).exists() and process.poll() is None:
        assert time.monotonic() < end, f"{moment} never appeared"
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_and_resumed_run_ends_like_an_uninterrupted_one(tiny, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny + STAGES)
    folder = tmp_path / "killed"
    randomness = random.Random(1)
    kills = [killed(recipe, folder, moment, randomness.uniform(0, 0.3)) for moment in MOMENTS]
    assert sum(kills) >= len(MOMENTS) - 1
    resumed = tfc.run(recipe, output=folder, resume=True, verbose=False)
    whole = tfc.run(recipe, output=tmp_path / "whole", verbose=False)

    assert not [p for p in folder.rglob("*") if ".part" in p.name]
    assert not (folder / "backup").exists()
    for name in ("pruned", "quantized"):
        zeros = {
            run.folder: {
                path: int((np.asarray(values) == 0).sum())
                for path, values in kernels(run.folder / "models" / f"{name}.keras").items()
            }
            for run in (resumed, whole)
        }
        assert sum(zeros[resumed.folder].values()) == sum(zeros[whole.folder].values())
    for run in (resumed, whole):
        for path in (run.folder / "models").glob("*.keras"):
            keras.models.load_model(path, compile=False)
        for artifact in run.artifacts.values():
            found = tfc.inspect_file(artifact.path)
            assert found.bytes == artifact.bytes
    assert resumed.artifacts["pruned 70% + int8 QAT"].float_islands == []
    assert Recipe.load(folder / "recipe.yaml") == Recipe.load(recipe)


def kernels(path):
    model = keras.models.load_model(path, compile=False)
    return {v.path: v.numpy() for v in model.trainable_variables if len(v.shape) > 1}

import json
from pathlib import Path

import numpy as np
import pytest

from tfcompress.export import Artifact, Fidelity


def test_sidecar_gives_back_an_equal_artifact(int8_artifact: Artifact):
    assert int8_artifact.sidecar == int8_artifact.path.with_name("int8.tflite.json")
    assert Artifact.load(int8_artifact.path) == int8_artifact
    assert Artifact.load(int8_artifact.sidecar) == int8_artifact
    fields = json.loads(int8_artifact.sidecar.read_text())
    assert fields["preprocessing"] == {"scale": 1 / 255}
    assert fields["path"] == "int8.tflite"
    assert {"keras", "ai-edge-litert", "numpy"} <= set(fields["versions"])


def test_holds_the_facts(int8_artifact: Artifact):
    assert int8_artifact.bytes == int8_artifact.path.stat().st_size
    assert int8_artifact.float_islands == []
    assert len(int8_artifact.sparsity) == 2
    assert all(0 <= zeros < 0.2 for zeros in int8_artifact.sparsity.values())
    assert isinstance(int8_artifact.fidelity, Fidelity)
    assert int8_artifact.fidelity.source == "calibration"
    text = str(int8_artifact)
    assert "float ops   none" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert "<table>" in int8_artifact._repr_html_()


def test_preprocessing_may_hold_numpy_values(int8_artifact: Artifact, tmp_path: Path):
    path = tmp_path / "copy.tflite"
    path.write_bytes(int8_artifact.path.read_bytes())
    made = Artifact.describe(
        path, "int8", "int8", preprocessing={"mean": np.array([0.5, 0.25]), "size": (8, 8)}
    )
    made.save()
    assert made.preprocessing == {"mean": [0.5, 0.25], "size": [8, 8]}
    assert Artifact.load(path) == made
    with pytest.raises(TypeError, match="JSON"):
        Artifact.describe(path, "int8", "int8", preprocessing={"function": len})


def test_missing_or_foreign_sidecars_are_refused(int8_artifact: Artifact, tmp_path: Path):
    path = tmp_path / "model.tflite"
    with pytest.raises(FileNotFoundError, match=r"model\.tflite"):
        Artifact.load(path)
    path.write_bytes(int8_artifact.path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model\.tflite\.json"):
        Artifact.load(path)
    sidecar = path.with_name("model.tflite.json")
    sidecar.write_text('{"some": "json"}')
    with pytest.raises(ValueError, match="not the sidecar"):
        Artifact.load(path)
    sidecar.write_text(int8_artifact.sidecar.read_text())
    assert Artifact.load(path).bytes == int8_artifact.bytes
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="another file"):
        Artifact.load(path)

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfcompress.export import Artifact, inspect_file


def test_int8_file(int8_artifact: Artifact):
    report = inspect_file(int8_artifact.path)
    assert report.fully_int8
    assert report.float_islands == report.requants == report.custom == report.variables == []
    assert report.ops == {"CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert report.bytes == int8_artifact.path.stat().st_size
    assert report.gzip_bytes < report.bytes
    (image,) = report.inputs
    assert (image.name, image.shape, image.dtype) == ("image", (1, 8, 8, 3), "int8")
    # Samples are uniform in [0, 1).
    assert image.scale == pytest.approx(1 / 255, rel=0.01)
    assert image.zero_point == -128
    assert report.output_steps == {"output_0": report.outputs[0].scale}
    kernel = next(weight for weight in report.weights if len(weight.shape) == 4)
    assert (kernel.shape, kernel.dtype, kernel.scales) == ((6, 3, 3, 3), "int8", 6)
    # Convolution and dense kernel, folded batch normalisation; the bias of zeros is left out.
    assert report.parameters == 6 * 27 + 6 + 60
    assert report.min_runtime is not None


def test_float_file(float_artifact: Artifact):
    report = inspect_file(float_artifact.path)
    assert not report.fully_int8
    assert len(report.float_islands) == len(report.operators) == 3
    assert report.output_steps == {"output_0": None}
    assert report.weight_bytes == {"float32": 4 * report.parameters}


def test_an_operator_left_in_float_is_an_island(elu_artifact: Artifact):
    report = inspect_file(elu_artifact.path)
    assert not report.fully_int8
    (island,) = report.float_islands
    assert island.startswith("ELU -> ")
    assert elu_artifact.float_islands == [island]
    assert {o.role for o in report.operators} == {"integer", "conversion", "float"}


def test_text_table_and_dictionary(elu_artifact: Artifact):
    report = inspect_file(elu_artifact.path)
    text = str(report)
    assert "ELU ->" in text
    # The first line is the path, which has the length it has.
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert json.loads(json.dumps(report.to_dict()))["ops"] == report.ops
    assert list(report.to_frame()["name"]) == [o.name for o in report.operators]
    assert "<table>" in report._repr_html_()
    assert repr(report) == str(report)


def test_bytes_and_paths_give_the_same(int8_artifact: Artifact):
    content = int8_artifact.path.read_bytes()
    assert inspect_file(content).to_dict() == {
        **inspect_file(int8_artifact.path).to_dict(),
        "path": None,
    }


def test_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no such TFLite file.*nothing\.tflite"):
        inspect_file(tmp_path / "nothing.tflite")


def test_empty_folder_and_other_files(tmp_path: Path):
    (tmp_path / "empty.tflite").touch()
    with pytest.raises(ValueError, match="empty"):
        inspect_file(tmp_path / "empty.tflite")
    (tmp_path / "text.tflite").write_text("not a model at all")
    with pytest.raises(ValueError, match="not a TFLite file"):
        inspect_file(tmp_path / "text.tflite")
    with pytest.raises(ValueError, match="folder"):
        inspect_file(tmp_path)


def test_truncated_at_any_place(int8_artifact: Artifact):
    content = int8_artifact.path.read_bytes()
    for end in range(8, len(content) - 16, 61):
        with pytest.raises(ValueError, match="truncated or damaged"):
            inspect_file(content[:end])


def test_damaged_files_never_raise_anything_else(int8_artifact: Artifact):
    content = int8_artifact.path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in generator.integers(8, len(content), 20):
            damaged[place] = generator.integers(256)
        try:
            inspect_file(bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 20


def test_needs_neither_tensorflow_nor_keras(int8_artifact: Artifact):
    script = (
        "import sys; from tfcompress.export import inspect_file; inspect_file(sys.argv[1]); "
        "print(sorted({'tensorflow', 'keras', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(int8_artifact.path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "[]"

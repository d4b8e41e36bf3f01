import importlib.util

import keras
import pytest

from tfcompress.export import check_tflm, convert

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)


@needs_tflm
def test_an_int8_file_runs_bit_by_bit(int8_artifact, images):
    check = check_tflm(int8_artifact.path, {"image": images})
    assert check.runs
    assert check.exact
    assert check.compared == 16
    assert 500 < check.arena_bytes < 20_000
    assert "bit by bit" in str(check)


@needs_tflm
def test_an_operator_without_a_kernel_is_named(tmp_path, images):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="gelu")]
    model = keras.Sequential([*layers, keras.layers.Conv2D(2, 3)])
    artifact = convert(model, tmp_path / "m.tflite", calibration=images)
    check = check_tflm(artifact.path)
    assert not check.runs
    assert check.missing == ("GELU",)
    assert "GELU" in str(check)


def test_without_the_package(int8_artifact, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --pre tflite-micro"):
        check_tflm(int8_artifact.path)

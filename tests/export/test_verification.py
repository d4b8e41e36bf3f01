from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.export import (
    Artifact,
    ConversionError,
    FidelityError,
    Tolerance,
    Worker,
    convert_saved,
    verify,
)
from tfcompress.export.verification import Fidelity, _judge


def test_post_training_file_is_measured(model, images, int8_artifact: Artifact):
    fidelity = verify(model(images).numpy(), int8_artifact.path, {"image": images}, scheme="int8")
    # 0.8 quanta is what global average pooling costs, 1.2 a dense layer.
    assert 0 < fidelity.max_quanta <= 4
    assert 0 < fidelity.mean_quanta < 1
    assert fidelity.off_fraction < 0.6
    assert fidelity.agreement > 0.85
    assert fidelity.sqnr > 15
    assert fidelity.max_relative is None
    assert fidelity.samples == 96
    assert fidelity.source == "given"
    assert fidelity.kernels["xnnpack"]["samples"] == 96
    # The two sets of kernels differ by one quantum at most.
    reference = fidelity.kernels["reference"]
    assert reference["max_quanta"] <= fidelity.max_quanta + 1


def test_float_file_is_measured_relative(model, images, float_artifact: Artifact):
    fidelity = verify(
        [model(images).numpy()], float_artifact.path, {"image": images}, scheme="float32"
    )
    assert fidelity.max_relative < 1e-5
    assert fidelity.max_quanta is None
    assert fidelity.agreement == 1


def test_float_outputs_of_an_integer_file_are_measured_in_quanta(float_io_artifact: Artifact):
    assert float_io_artifact.outputs[0].dtype == "float32"
    assert 0 < float_io_artifact.fidelity.max_quanta <= 4


def test_a_shift_by_quanta_is_seen_exactly(images, int8_artifact: Artifact):
    own = LiteRTModel(int8_artifact.path).predict(images)
    exact = verify(own, int8_artifact.path, {"image": images}, tolerance=1)
    assert exact.max_quanta == pytest.approx(0, abs=1e-3)
    step = int8_artifact.outputs[0].scale
    with pytest.raises(FidelityError, match=r"6 quanta in more than") as caught:
        verify(own + 6 * step, int8_artifact.path, {"image": images})
    assert caught.value.fidelity.max_quanta == pytest.approx(6, abs=1e-2)
    assert caught.value.fidelity.off_fraction == 1
    accepted = verify(own + 6 * step, int8_artifact.path, {"image": images}, tolerance=6)
    assert accepted.mean_quanta == pytest.approx(6, abs=1e-2)


def test_garbage_is_refused_even_after_training(images, int8_artifact: Artifact):
    unrelated = np.random.default_rng(0).normal(size=(96, 10)).astype(np.float32)
    with pytest.raises(FidelityError, match="more noise than signal"):
        verify(unrelated, int8_artifact.path, {"image": images}, scheme="int8")
    verify(unrelated, int8_artifact.path, {"image": images}, Tolerance(), scheme="int8")


def test_nan_is_always_refused(model, images, float_artifact: Artifact, tmp_path: Path):
    answers = model(images).numpy()
    answers[3, 2] = np.nan
    with pytest.raises(FidelityError, match="model itself"):
        verify(answers, float_artifact.path, {"image": images}, Tolerance())
    inputs = keras.Input((4,), name="x")
    keras.Model(inputs, keras.ops.log(inputs)).save(tmp_path / "log.keras")
    convert_saved(tmp_path / "log.keras", tmp_path / "log.tflite", scheme="float32")
    samples = {"x": np.full((3, 4), -1, np.float32)}
    with pytest.raises(FidelityError, match="NaN or infinity in output 'output_0'"):
        verify(np.zeros((3, 4)), tmp_path / "log.tflite", samples, Tolerance())


def test_references_must_belong_to_the_file(images, float_artifact: Artifact):
    with pytest.raises(ValueError, match=r"outputs \['output_0'\].*'logits'"):
        verify({"logits": images}, float_artifact.path, {"image": images})
    with pytest.raises(ValueError, match=r"shape \(96, 10\)"):
        verify(np.zeros((96, 3)), float_artifact.path, {"image": images})


class WithoutReferenceKernels(Worker):
    def call(self, target, /, time_limit=600, **arguments):
        if arguments.get("resolver") == "reference":
            raise ConversionError("Didn't find op for builtin opcode 'TILE' version '3'")
        return super().call(target, time_limit, **arguments)


def test_operators_without_reference_kernel_are_said(model, images, float_artifact: Artifact):
    worker = WithoutReferenceKernels()
    fidelity = verify(
        model(images).numpy(),
        float_artifact.path,
        {"image": images},
        scheme="float32",
        worker=worker,
    )
    worker.close()
    assert "TILE" in fidelity.kernels["reference"]["skipped"]
    assert "reference kernels not run: Didn't find op" in str(fidelity)


@pytest.mark.parametrize(
    "limits", [{"max_quanta": -1}, {"tail_quanta": "4"}, {"max_relative": float("nan")}]
)
def test_limits_are_numbers_of_at_least_zero(limits):
    with pytest.raises(ValueError, match=rf"`Tolerance\.{next(iter(limits))}` must be a number"):
        Tolerance(**limits)
    assert Tolerance(min_sqnr=-3).min_sqnr == -3  # more noise than signal may be wanted


def figures(tail, sqnr):
    return Fidelity(
        max_quanta=tail + 2,
        tail_quanta=tail,
        mean_quanta=0.5,
        off_fraction=0.2,
        max_relative=None,
        sqnr=sqnr,
        agreement=1.0,
        samples=32,
        source="given",
    )


def test_default_tolerance_takes_many_off_by_ones_but_no_noise():

    limits = Tolerance.of(None, "fake_quant")
    for passing in (figures(3, 10.0), figures(12, 30.0), figures(12, None)):
        _judge(passing, limits, "XNNPACK", passing)
    with pytest.raises(FidelityError, match="differs by 12 quanta in more"):
        _judge(figures(12, 20.0), limits, "XNNPACK", figures(12, 20.0))
    with pytest.raises(FidelityError, match="allowed are 64"):
        _judge(figures(70, 40.0), limits, "XNNPACK", figures(70, 40.0))

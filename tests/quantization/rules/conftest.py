"""Models quantized, exported and compared with their files."""

from contextlib import contextmanager

import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """Return a function that quantizes a model with some data and exports it, however far off."""

    def convert(model, data):
        qat = tfc.quantize_aware(model, calibration=data, verbose=False)
        path = tmp_path_factory.mktemp("rules") / "model.tflite"
        return qat, tfc.export(qat, path, io="float32", calibration=data, tolerance=np.inf)

    return convert


@pytest.fixture(scope="session")
def quanta():
    """Return a function that tells how far a file's outputs are from a model's, by their names.

    In quanta, which are the distances of two values that an output has.
    """

    def measure(artifact, data, expected):
        answers = LiteRTModel(artifact.path).predict(data)
        found = {}
        for name, answer in zip(sorted(expected), answers, strict=True):
            gaps = np.diff(np.unique(np.round(expected[name], 6)))
            found[name] = np.abs(answer - expected[name]) / gaps[gaps > 1e-5].min()
        return found

    return measure


@pytest.fixture(scope="session")
def in_float():
    """Return a context manager in which a model computes without its quantizers."""

    @contextmanager
    def switch(qat):
        parts = [*quantizers_of(qat), *wrappers_of(qat)]
        for part in parts:
            part.quantizing = False
        try:
            yield
        finally:
            for part in parts:
                part.quantizing = True

    return switch

"""Pruning to a compressed size: what the int8 file would be after gzip."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from tfcompress.graph.model_inputs import model_inputs
from tfcompress.pruning.goals import MeasuredGoal, Outcome
from tfcompress.pruning.layouts import StoredLayout, stored_layout
from tfcompress.pruning.weight_mask import Mask

# Of larger kernels, evenly spaced output channels of about this many weights in all are compressed.
_SAMPLE = 1 << 20
_CODES = 127
_CALIBRATION = 8


class GzipGoal(MeasuredGoal):
    """Bytes of the int8 `.tflite` file after gzip at level 9.

    The kernels are quantized and compressed as in the file: int8 by output channel, in LiteRT's
    order. What else is in the file (biases, scales, operators) is found by making an int8 file of
    the model and comparing, at the first update of the masks and again at the last. That takes 10
    to 20 seconds each, and needs TensorFlow on any backend.
    """

    name = "gzip_bytes"
    drifts = True

    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Remember the model."""
        self._model = model
        self._rest: int | None = None
        self._measured_last = False
        self._layouts = {id(m): stored_layout(m.layer, m.variable) for m in masks}

    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """What the file would be with some masks."""
        packed = self._packed(outcomes)
        if self._rest is None or (self.is_final and not self._measured_last):
            self._measured_last = self.is_final
            present = [Outcome(o.mask, o.mask.value.value, o.mask.pruned) for o in outcomes]
            self._rest = self._file_bytes() - self._packed(present)
            logging.info("gzip_bytes: %d bytes of the int8 file are no kernels.", self._rest)
        return packed + self._rest

    def _packed(self, outcomes: Sequence[Outcome]) -> int:
        content = bytearray()
        total = sum(outcome.mask.size for outcome in outcomes)
        scale = max(1.0, total / _SAMPLE)
        for outcome in outcomes:
            content += _codes(outcome, self._layouts[id(outcome.mask)], scale)
        size = len(gzip.compress(bytes(content), 9, mtime=0))
        return round(size * total / len(content))

    def _file_bytes(self) -> int:
        # Only here: converting needs TensorFlow, and no other goal does.
        from tfcompress.export import convert

        rng = np.random.default_rng(0)
        samples = {
            name: _random(rng, (_CALIBRATION, *(size or 1 for size in shape[1:])), dtype)
            for name, shape, dtype in model_inputs(self._model)
        }
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
            # Random inputs prove nothing, and only the size is wanted.
            artifact = convert(
                self._model, Path(folder) / "size.tflite", calibration=samples, tolerance=1e9
            )
            return artifact.gzip_bytes


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if "int" in dtype:
        return np.zeros(shape, dtype)
    return rng.random(shape).astype(dtype)


def _codes(outcome: Outcome, layout: StoredLayout | None, scale: float) -> bytes:
    """The int8 codes of a kernel as in the file, of every `scale`-th output channel."""
    kernel: Any = outcome.mask.masked_by(outcome.value)
    if layout is None:
        matrix = ops.reshape(kernel, (1, -1))
    else:
        matrix = layout.to_matrix(kernel)
    rows = matrix.shape[0]
    if scale > 1 and rows > 1:
        matrix = ops.take(matrix, np.arange(0, rows, scale).astype("int32"), axis=0)
    values = np.asarray(ops.convert_to_numpy(ops.cast(matrix, "float32")))
    largest = np.abs(values).max(axis=1, keepdims=True)
    steps = np.where(largest > 0, largest, 1.0) / _CODES
    return np.rint(values / steps).astype("int8").tobytes()

"""The values in the middle of a TFLite file, as a reference for another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfcompress.evaluation.tensor_matching import Point
from tfcompress.export.file_parts import Activation
from tfcompress.export.flatbuffer import Flatbuffer, read_tflite

# What they compute is what they read, on another grid.
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")

Reader = Callable[[Mapping[str, np.ndarray], Sequence[Activation]], Mapping[int, np.ndarray]]


class FileValues:
    """Runs a file and keeps what its operators compute.

    Args:
        path: A TFLite file, usually of floats.
        read: Runs samples through the file and returns tensors of it by number.

    Attributes:
        specs: `(name, shape without the batch, dtype)` of each input.
        points: What is kept, in the order of the computation.
    """

    def __init__(self, path: str, read: Reader) -> None:
        parsed = Flatbuffer(read_tflite(path)[1], path)
        self._read = read
        self._kept = [
            activation
            for activation in parsed.activations()
            if activation.operator not in _CONVERSIONS
            and (activation.spec.quantized or activation.spec.dtype.startswith("float"))
        ]
        self.specs = [(spec.name, tuple(spec.shape[1:]), spec.dtype) for spec in parsed.inputs]
        self.points = [
            Point(
                activation.spec.name.split(";")[0],
                activation.operator or "Input",
                tensor=activation.spec.name,
            )
            for activation in self._kept
        ]

    def run(self, samples: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The tensors' values, by position in `points`.

        Args:
            samples: Arrays of shape (n, …) by input name.
        """
        found = self._read(samples, self._kept)
        return {
            number: activation.spec.dequantize(found[activation.index])
            for number, activation in enumerate(self._kept)
        }

"""How much a model holds and how much room it takes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.file_layers import file_layers
from tfcompress.evaluation.keras_layers import keras_layers
from tfcompress.evaluation.kernels import Kernel, file_kernels, keras_kernels
from tfcompress.evaluation.results import LayerResult, LayerWeight

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Sizes:
    """Sizes of one entry.

    Attributes:
        weights: All weight tensors.
        bytes: File size, or `None` for a model that is in memory only.
        gzip_bytes: File size after gzip at level 9, or `None`.
        float_islands: Operators that compute in float, or `None` for a Keras model.
        layers: The layers that hold weights or multiply.
        kernels: The values of the weights that are kernels.
    """

    weights: list[LayerWeight]
    bytes: int | None
    gzip_bytes: int | None
    float_islands: list[str] | None
    layers: list[LayerResult]
    kernels: list[Kernel]

    def figures(self) -> dict[str, float | None]:
        """Return the figures that do not depend on other entries."""
        parameters = sum(weight.size for weight in self.weights)
        nonzeros = sum(weight.nonzeros for weight in self.weights)
        macs = [layer.macs for layer in self.layers]
        return {
            "parameters": parameters,
            "nonzeros": nonzeros,
            "sparsity": 1 - nonzeros / parameters if parameters else 0.0,
            "macs": None if None in macs else sum(count or 0 for count in macs),
            "bytes": self.bytes,
            "gzip_bytes": self.gzip_bytes,
            "float_ops": None if self.float_islands is None else len(self.float_islands),
        }


def keras_sizes(model: keras.Model, path: Path | None) -> Sizes:
    """Return the sizes of a Keras model and of the file that it came from, if any.

    Every weight counts, trainable or not, as in `model.count_params()`.
    """
    import keras

    weights = []
    for variable in model.weights:
        values = keras.ops.convert_to_numpy(variable)
        weights.append(
            LayerWeight(
                name=variable.path,
                shape=tuple(values.shape),
                dtype=str(variable.dtype),
                size=int(values.size),
                nonzeros=int(np.count_nonzero(values)),
                bytes=int(values.nbytes),
                scales=0,
                operator="",
            )
        )
    content = None if path is None else path.read_bytes()
    return Sizes(
        weights=weights,
        bytes=None if content is None else len(content),
        gzip_bytes=None if content is None else len(gzip.compress(content, 9, mtime=0)),
        float_islands=None,
        layers=keras_layers(model),
        kernels=keras_kernels(model),
    )


def tflite_sizes(path: Path) -> Sizes:
    """Return the sizes of a .tflite file."""
    from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
    from tfcompress.export.inspection import inspect_file

    inspection = inspect_file(path)
    parsed = Flatbuffer(read_tflite(path)[1], str(path))
    weights = [
        LayerWeight(
            name=weight.name,
            shape=weight.shape,
            dtype=weight.dtype,
            size=weight.size,
            nonzeros=round(weight.size * (1 - weight.zeros)),
            bytes=weight.bytes,
            scales=weight.scales,
            operator=weight.operator,
        )
        for weight in inspection.weights
    ]
    return Sizes(
        weights=weights,
        bytes=inspection.bytes,
        gzip_bytes=inspection.gzip_bytes,
        float_islands=inspection.float_islands,
        layers=file_layers(parsed),
        kernels=file_kernels(parsed),
    )

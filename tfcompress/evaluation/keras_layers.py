"""The layers of a Keras model: weights by the layer that owns them, and its multiplications."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.results import LayerResult

if TYPE_CHECKING:
    import keras

    from tfcompress.graph.weights import Weight


def keras_layers(model: keras.Model) -> list[LayerResult]:
    """Return the layers that hold weights or multiply, in the order in which they run."""
    from tfcompress.graph.weights import weights_of

    owned: dict[str, list[Weight]] = {}
    for weight in weights_of(model):
        owned.setdefault(weight.layer, []).append(weight)
    macs = _macs(model)
    return [_layer(path, owned[path], macs) for path in owned]


def _layer(path: str, weights: list[Weight], macs: dict[str, int] | None) -> LayerResult:
    import keras

    values = [np.asarray(keras.ops.convert_to_numpy(weight.variable)) for weight in weights]
    largest = max(values, key=lambda array: array.size)
    return LayerResult(
        name=path,
        operator=type(weights[0].owner).__name__,
        parameters=sum(array.size for array in values),
        nonzeros=sum(int(np.count_nonzero(array)) for array in values),
        bits=8.0 * largest.itemsize,
        bytes=sum(array.nbytes for array in values),
        macs=None if macs is None else macs.get(path, 0),
    )


def _macs(model: keras.Model) -> dict[str, int] | None:
    from tfcompress.graph.flat import UntraceableModelError
    from tfcompress.graph.macs import count_macs

    try:
        return count_macs(model)
    except UntraceableModelError:
        # A subclassed model can be run and compared all the same.
        return None

"""Letting a layer compute with other values than those of its variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfcompress.graph import keras_internals


@contextmanager
def substituted(layer: keras.layers.Layer, values: dict[int, Any]) -> Iterator[None]:
    """Put values in the place of variables of a layer and of the layers in it, inside the block.

    Args:
        layer: A built layer.
        values: By `id(variable)`, the value that its attributes hold inside the block.
    """
    saved: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for owner in keras_internals.flat_sublayers(layer):
            # Through __dict__, past Keras' attribute tracking.
            attributes = owner.__dict__
            for name, attribute in list(attributes.items()):
                if id(attribute) in values:
                    saved.append((attributes, name, attribute))
                    attributes[name] = values[id(attribute)]
        yield
    finally:
        for attributes, name, attribute in saved:
            attributes[name] = attribute

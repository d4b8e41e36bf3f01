"""Where in a graph the values that a layer reads and makes are quantized."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Any

import keras

from tfcompress.graph import keras_internals


class Source(ABC):
    """A layer at which the search for where values were quantized ends."""

    @abstractmethod
    def output_unit(self) -> Any:
        """What one code of what it makes is worth, a float32 scalar; None where not known."""


class Neighbour:
    """The one operation that stands at a certain place beside a layer.

    A layer that is shared may have several there, and then has no one.
    """

    def __init__(self) -> None:
        self._operation: weakref.ref[Source] | None = None
        self._ambiguous = False

    def observe(self, operation: Source | None) -> None:
        """Take note of what stands there at one call of the layer; None for nothing of use."""
        known = self.operation
        if operation is None or (known is not None and known is not operation):
            self._ambiguous = True
        else:
            self._operation = weakref.ref(operation)

    @property
    def operation(self) -> Any:
        """The operation, if it was the same at all calls."""
        # Keras would take a layer that it finds in an attribute for a part of this one.
        return None if self._ambiguous or self._operation is None else self._operation()


class Maker(Source):
    """A layer whose outputs a quantizer behind it may round.

    Attributes:
        output_quantizer: That quantizer.
    """

    output_quantizer: Neighbour


def sources_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Source | None]:
    """Where the symbolic tensors that a layer is called with were quantized.

    Returns:
        For each tensor its quantizer, or the wrapper that it comes from unquantized, or None.
    """
    tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
    return [_source_of(tensor) for tensor in tensors]


def _source_of(tensor: keras.KerasTensor) -> Source | None:
    """What made a tensor, behind operations that only move values, or clip them and fuse."""
    while True:
        operation, inputs = keras_internals.origin_of(tensor)
        if isinstance(operation, Source):
            return operation
        if not inputs:
            return None
        tensor = inputs[0]

"""The grid of biases: LiteRT stores them in units of the integer sums that they are added to."""

from __future__ import annotations

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.quantization.activation_quantizer import ActivationQuantizer


def round_bias(bias: Any, unit: Any) -> Any:
    """Round a bias as LiteRT stores it.

    Args:
        bias: Float32 tensor of shape (channels,) or scalar.
        unit: What one code of the bias is worth: the scale of the input times that of the weight
            (Jacob et al. 2018, section 2.4). Broadcasts to `bias`. Not positive where the bias is
            not rounded.

    Returns:
        A float32 tensor; its gradient with respect to `bias` is 1.
    """
    known = unit > 0
    divisor = ops.where(known, unit, ops.ones_like(unit))
    rounded = ops.where(known, ops.round(bias / divisor) * divisor, bias)
    return bias + ops.stop_gradient(rounded - bias)


def told_apart(bias: np.ndarray) -> np.ndarray:
    """A bias of the same integer codes that the converter quantizes channel by channel.

    It gives a bias of equal values the code of the first channel everywhere, whatever the scales of
    the other channels are.

    Args:
        bias: Float32 of shape (channels,).
    """
    if len(bias) > 1 and bias[0] != 0 and np.all(bias == bias[0]):
        return np.concatenate([np.nextafter(bias[:1], np.float32(np.inf)), bias[1:]])
    return bias


class InputSource:
    """Where the values that a layer reads were quantized, as the graph around it shows.

    A layer that is shared among inputs of different ranges has no one source.
    """

    def __init__(self) -> None:
        self._operation: weakref.ref[keras.Operation] | None = None
        self._ambiguous = False

    def observe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look for the source of the first of the symbolic tensors that a layer is called with."""
        tensors = [
            x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)
        ]
        found = _source_of(tensors[0]) if tensors else None
        known = self.operation
        if found is None or (known is not None and known is not found):
            self._ambiguous = True
        else:
            self._operation = weakref.ref(found)

    @property
    def operation(self) -> keras.Operation | None:
        """The quantizer of the input, or the wrapper that it comes from unquantized."""
        # Keras would take a layer that it finds in an attribute for a part of this one.
        return None if self._ambiguous or self._operation is None else self._operation()


def _source_of(tensor: keras.KerasTensor) -> keras.Operation | None:
    """What made a tensor, behind operations that only move values."""
    while True:
        operation, inputs = keras_internals.origin_of(tensor)
        if isinstance(operation, ActivationQuantizer) or hasattr(operation, "accumulator_unit"):
            return operation
        if not inputs:
            return None
        tensor = inputs[0]

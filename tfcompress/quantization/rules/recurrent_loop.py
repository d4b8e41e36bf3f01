"""Running a step over a sequence: in training as a loop, for export spelled out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.quantization import integer_arithmetic
from tfcompress.quantization.activation_quantizer import ActivationQuantizer

# From the inputs of a step and the states to the output and the states. No states stand for zeros.
Step = Callable[[Any, tuple[Any, ...] | None], tuple[Any, tuple[Any, ...]]]


class Loop(ABC):
    """Runs the steps of a recurrent layer and quantizes in them.

    Attributes:
        training: Whether dropout is on.
    """

    training = False

    @abstractmethod
    def quantize(self, name: str, x: Any) -> Any:
        """`x` in the range of that name."""

    @abstractmethod
    def add(self, name: str, *terms: tuple[str, Any]) -> Any:
        """The sum, for the range of that name, of tensors behind the names of their ranges."""

    @abstractmethod
    def subtract(self, name: str, *terms: tuple[str, Any]) -> Any:
        """Likewise the first without the second."""

    @abstractmethod
    def kept(self, name: str, x: Any) -> Any:
        """`x`, whose values are on the grid of that range already."""

    @abstractmethod
    def scale(self, name: str) -> Any:
        """The scale of that range, 0 while values pass through."""

    @abstractmethod
    def quantized_constant(self, name: str, x: Any) -> Any:
        """A constant in the range of that name, without a quantizer in the graph."""

    @abstractmethod
    def zeros_like(self, x: Any) -> Any:
        """Zeros before the first step, or None, which `Step` takes for them."""

    @abstractmethod
    def hard_sigmoid(self, x: Any) -> Any:
        """`x / 6 + 0.5`, to be clipped to 0 … 1 by its range."""

    @abstractmethod
    def run(
        self, step: Step, sequence: Any, states: tuple[Any, ...] | None, backwards: bool
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run all steps.

        Args:
            step: The step.
            sequence: What the steps read, of shape (batch, steps, ...), or a tuple of such.
            states: Initial states, or None for zeros.
            backwards: Whether to start with the last.

        Returns:
            The outputs by step in the order in which they were made, and the last states.
        """

    @abstractmethod
    def sequence(self, outputs: Any, flipped: bool = False) -> Any:
        """Outputs of `run` as one tensor of shape (batch, steps, ...)."""


class TrainingLoop(Loop):
    """A rolled loop with the quantizers that learn.

    Inside the loop values are quantized with the ranges from before it; what was quantized comes
    out of the loop and updates the ranges in `observe`, because a loop must not assign variables.

    Args:
        quantizers: The quantizers by name.
        training: Whether dropout is on and the ranges are updated.
        exact: Whether to add as LiteRT's integers do.
    """

    def __init__(
        self,
        quantizers: Mapping[str, ActivationQuantizer],
        training: bool,
        exact: bool = False,
    ) -> None:
        self.training = training
        self._exact = exact
        self._quantizers = quantizers
        self._functions = {name: q.snapshot(training) for name, q in quantizers.items()}
        self._seen: list[tuple[str, Any]] = []
        self._watched = {
            name
            for name, q in quantizers.items()
            if q.fixed_range is None and (q.calibrating or (training and q.observing))
        }

    def quantize(self, name: str, x: Any) -> Any:
        """With the range as it was at the start."""
        if name in self._watched:
            self._seen.append((name, ops.stop_gradient(x)))
        return self._functions[name](x)

    def add(self, name: str, *terms: tuple[str, Any]) -> Any:
        """In evaluation rounded as LiteRT rounds it."""
        (first, a), (second, b) = terms
        if not self._exact:
            return a + b
        return integer_arithmetic.add(
            a, b, (self.scale(first), self.scale(second)), self.scale(name)
        )

    def subtract(self, name: str, *terms: tuple[str, Any]) -> Any:
        """Likewise."""
        first, (second, b) = terms
        return self.add(name, first, (second, -b))

    def kept(self, name: str, x: Any) -> Any:
        """As it is."""
        return x

    def scale(self, name: str) -> Any:
        """As it was at the start."""
        return self._quantizers[name].scale()

    def quantized_constant(self, name: str, x: Any) -> Any:
        """Like any other value."""
        return self.quantize(name, x)

    def zeros_like(self, x: Any) -> Any:
        """A tensor, because a loop carries tensors."""
        return ops.zeros_like(x)

    def hard_sigmoid(self, x: Any) -> Any:
        """Clipped."""
        return ops.clip(x * (1 / 6) + 0.5, 0.0, 1.0)

    def run(
        self, step: Step, sequence: Any, states: tuple[Any, ...] | None, backwards: bool
    ) -> tuple[Any, tuple[Any, ...]]:
        """As a loop of the backend."""
        if states is None:
            raise ValueError("A loop in training needs initial states. Received: None")
        if backwards:
            sequence = keras.tree.map_structure(lambda x: ops.flip(x, axis=1), sequence)
        outside = self._seen
        names: list[str] = []

        def body(x: Any, states: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            self._seen = []
            output, states = step(x, states)
            names[:] = [name for name, _ in self._seen]
            return (output, *(value for _, value in self._seen)), states

        by_step = keras.tree.map_structure(lambda x: ops.swapaxes(x, 0, 1), sequence)
        stacked, last = keras_internals.step_loop(body, by_step, states)
        self._seen = [*outside, *zip(names, stacked[1:], strict=True)]
        return stacked[0], last

    def sequence(self, outputs: Any, flipped: bool = False) -> Any:
        """The batch in front."""
        outputs = ops.swapaxes(outputs, 0, 1)
        return ops.flip(outputs, axis=1) if flipped else outputs

    def observe(self) -> None:
        """Update the ranges with all that was quantized."""
        for name in self._watched:
            values = [value for seen, value in self._seen if seen == name]
            self._quantizers[name](values, training=self.training)


class UnrolledLoop(Loop):
    """Every step by itself, with fixed ranges.

    Args:
        quantizers: By name, quantizers with fixed ranges.
    """

    def __init__(self, quantizers: Mapping[str, ActivationQuantizer]) -> None:
        self._quantizers = quantizers

    def quantize(self, name: str, x: Any) -> Any:
        """With the fixed range."""
        return self._quantizers[name](x)

    def add(self, name: str, *terms: tuple[str, Any]) -> Any:
        """An operation of the file."""
        (_, a), (_, b) = terms
        return a + b

    def subtract(self, name: str, *terms: tuple[str, Any]) -> Any:
        """Likewise."""
        (_, a), (_, b) = terms
        return a - b

    def kept(self, name: str, x: Any) -> Any:
        """Quantized again, which tells the converter the range."""
        return self.quantize(name, x)

    def scale(self, name: str) -> Any:
        """That of the fixed range."""
        return self._quantizers[name].scale()

    def quantized_constant(self, name: str, x: Any) -> Any:
        """In arithmetic that a converter folds, rounded as the quantizer does in training."""
        quantizer = self._quantizers[name]
        low, high = quantizer.fixed_range or (0.0, 0.0)
        steps = 2**quantizer.bits - 1
        scale = (high - low) / steps
        below = round(-low / scale)  # the code of zero, counted from the lowest
        code = ops.floor(ops.cast(x, "float32") / scale + below + 0.5)
        return ops.cast((ops.clip(code, 0, steps) - below) * scale, x.dtype)

    def zeros_like(self, x: Any) -> None:
        """None."""

    def hard_sigmoid(self, x: Any) -> Any:
        """One convolution, whose output range clips."""
        return depthwise_affine(x, 1 / 6, 0.5)

    def run(
        self, step: Step, sequence: Any, states: tuple[Any, ...] | None, backwards: bool
    ) -> tuple[Any, tuple[Any, ...]]:
        """One after the other."""
        steps = _unstacked(sequence)
        outputs = []
        for x in reversed(steps) if backwards else steps:
            output, states = step(x, states)
            outputs.append(output)
        return outputs, states or ()

    def sequence(self, outputs: Any, flipped: bool = False) -> Any:
        """Stacked."""
        return ops.stack(outputs[::-1] if flipped else outputs, axis=1)


def _unstacked(sequence: Any) -> list[Any]:
    if isinstance(sequence, tuple):
        return list(zip(*map(_unstacked, sequence), strict=True))
    if sequence.shape[1] is None:
        raise ValueError(
            "A recurrent layer is exported step by step, so the number of its steps must follow "
            "from the shapes of the model's inputs. Fix it in the model, for example by a "
            f"`Reshape` in front of the layer. Received: a sequence of shape {sequence.shape}"
        )
    return list(ops.unstack(sequence, axis=1))


def depthwise_affine(x: Any, scale: Any, offset: Any = None) -> Any:
    """`x * scale + offset` as a 1x1 depthwise convolution, each channel with a scale of its own.

    Args:
        x: Tensor of rank 2 to 4, channels last.
        scale: Scalar or of shape (channels,).
        offset: Scalar or of shape (channels,). Defaults to None.

    Returns:
        A tensor of the shape of `x`.
    """
    channels = x.shape[-1]
    kernel = ops.reshape(ops.broadcast_to(scale, (channels,)), (1, 1, channels, 1))
    spatial = (1,) * (4 - len(x.shape)) + tuple(x.shape[1:-1])
    image = ops.reshape(x, (-1, *spatial, channels))
    y = ops.depthwise_conv(image, ops.cast(kernel, x.dtype), strides=1, padding="valid")
    if offset is not None:
        y = y + ops.cast(ops.broadcast_to(offset, (channels,)), x.dtype)
    return ops.reshape(y, (-1, *x.shape[1:]))

"""What the steps of all recurrent cells have in common, as LiteRT runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from tfcompress.quantization.rules.activations import TANH_RANGE, UNIT_RANGE, activation_name
from tfcompress.quantization.rules.recurrent_loop import Loop, Step, depthwise_affine
from tfcompress.quantization.rules.registry import InnerRanges

GATES = "gates"
HIDDEN = "hidden"

# Output ranges of the activation functions that have an integer form; None is learned.
ACTIVATIONS: dict[str, tuple[float, float] | None] = {
    "sigmoid": UNIT_RANGE,
    "tanh": TANH_RANGE,
    "hard_sigmoid": (0.0, 1.0),
    "relu": None,
    "relu6": None,
    "linear": None,
}


class CellArithmetic(ABC):
    """A cell spelled out in operations, with the names of the ranges between them.

    Values that are added share a range wherever the sum has it too: then the sum of two codes is
    exact, and the first step, whose state is zero, needs no addition at all.

    Args:
        cell: A built cell, whose kernels hold what to compute with when `project` and `step` are
            called.
        prefix: Put before the names of the ranges.
        hidden: Name of the range of the outputs. Defaults to `prefix + "hidden"`.

    Attributes:
        states: Names of the ranges of the states, of which the first is the output.
        gates: Number of blocks in the last axis of the kernels.
    """

    states: tuple[str, ...] = (HIDDEN,)
    gates = 1

    def __init__(self, cell: keras.layers.Layer, prefix: str = "", hidden: str | None = None):
        self.cell = cell
        self.prefix = prefix
        self.hidden = hidden or prefix + HIDDEN
        self._masks: list[Any] = []

    def kernels(self) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Both kernels, with a scale for each output channel."""
        return [(self.cell.kernel, (-1,)), (self.cell.recurrent_kernel, (-1,))]

    def activations(self) -> dict[str, Any]:
        """By the name of their output's range, the activation functions of a step."""
        return {"candidate": self.cell.activation, "gate": self.cell.recurrent_activation}

    def refusal(self) -> str | None:
        """Why the cell must stay float, or None."""
        for function in self.activations().values():
            if activation_name(function) not in ACTIVATIONS:
                return (
                    f"{activation_name(function)} has no integer form inside a recurrent cell; "
                    f"these have: {', '.join(ACTIVATIONS)}"
                )
        return None

    def ranges(self) -> InnerRanges:
        """The ranges of a step by name, fixed or None."""
        ranges: InnerRanges = {self.prefix + GATES: None, self.hidden: None}
        for name, function in self.activations().items():
            if activation_name(function) != "linear":
                ranges[self.prefix + name] = ACTIVATIONS[activation_name(function)]
        return ranges

    def input_bias(self) -> Any:
        """What is added to the projection of the inputs, or None."""
        return None

    def state_bias(self) -> Any:
        """What is added to the projection of the state."""
        return self.cell.bias

    def bias_units(self, inputs: Any, scale_of: Callable[[str], Any], scales: list[Any]) -> Any:
        """What one code of each value of the bias is worth; 0 where it is not known.

        Args:
            inputs: What one code of the inputs is worth.
            scale_of: From the name of a range in this cell to its scale.
            scales: For both kernels what one code of each column is worth.
        """
        return scale_of(HIDDEN) * scales[1]

    def in_order(self, weight: Any) -> Any:
        """A weight with its gates in the order in which a step wants them."""
        return weight

    def project(self, loop: Loop, inputs: Any) -> Any:
        """The part of the gates that comes from the inputs, for all steps at once.

        Args:
            loop: What runs the layer.
            inputs: Shape (batch, steps, ...).
        """
        self._masks = self._recurrent_masks(loop, inputs)
        dropped = self._after_dropout(loop, inputs)
        kernel = self.in_order(self.cell.kernel)
        bias = self.input_bias()

        def of_rows(*rows: Any) -> Any:
            outputs = by_gate(self.multiply, list(rows), kernel, self.gates)
            # Next to the product, which LiteRT fuses it into.
            return outputs if bias is None else outputs + ops.cast(bias, outputs.dtype)

        return self.quantize(loop, GATES, _for_all_steps(of_rows, dropped))

    def multiply(self, rows: Any, kernel: Any) -> Any:
        """The projection of the inputs of a step."""
        return ops.matmul(rows, kernel)

    def multiply_state(self, state: Any, kernel: Any) -> Any:
        """The projection of a state."""
        return ops.matmul(state, kernel)

    def prepared(self, loop: Loop) -> tuple[Any, Any]:
        """The recurrent kernel and the bias of the state, or None, for all steps."""
        kernel = self.in_order(self.cell.recurrent_kernel)
        if not self.cell.use_bias:
            return kernel, None
        return kernel, self.in_order(self.state_bias())

    def recur(self, loop: Loop, state: Any, kernel: Any, bias: Any) -> Any:
        """The projection of the state after dropout, quantized."""
        states = [state * mask for mask in self._masks] or [state]
        projected = by_gate(self.multiply_state, states, kernel, self.gates)
        return self.quantize(loop, GATES, projected if bias is None else projected + bias)

    def with_state(self, loop: Loop, x: Any, state: Any, kernel: Any, bias: Any) -> Any:
        """The sum of the projections of inputs and state, quantized."""
        if state is not None:
            x = x + self.recur(loop, state, kernel, bias)
        elif bias is None:
            return x
        else:
            x = self.without_state(loop, x, bias)
        return self.quantize(loop, GATES, x)

    def without_state(self, loop: Loop, x: Any, bias: Any) -> Any:
        """What adding the projection of a zero state to `x` makes of it, not yet quantized."""
        if bias is None:
            return x
        return depthwise_affine(x, 1.0, loop.quantized_constant(self.named(GATES), bias))

    @abstractmethod
    def step(self, loop: Loop) -> Step:
        """A function of a step's projected inputs and the states."""

    def masked_step(self, loop: Loop, zero_output: bool) -> Step:
        """A step that leaves everything as it is where its mask is false.

        It reads the projected inputs together with a mask of shape (batch, 1), and the states
        behind the last output, which as in Keras is zero at first, whatever the first states are.

        Args:
            loop: What runs the layer.
            zero_output: Whether the output is zero where the mask is false.
        """
        step = self.step(loop)

        def choose(mask: Any, name: str, new: Any, old: Any) -> Any:
            mask = ops.reshape(mask, (-1,) + (1,) * (len(new.shape) - 1))
            return loop.kept(self.named(name), ops.where(mask, new, 0.0 if old is None else old))

        def masked_step(x: Any, states: tuple[Any, ...] | None) -> tuple[Any, tuple[Any, ...]]:
            (x, mask), (last, *old) = x, states or (None,) * (1 + len(self.states))
            _, new = step(x, None if old[0] is None else tuple(old))
            kept = tuple(map(partial(choose, mask), self.states, new, old))
            if zero_output:
                last = None
            output = kept[0] if last is old[0] else choose(mask, HIDDEN, new[0], last)
            return output, (output, *kept)

        return masked_step

    def named(self, name: str) -> str:
        """The full name of a range."""
        if name == "candidate" and activation_name(self.cell.activation) == "linear":
            name = GATES
        return self.hidden if name == HIDDEN else self.prefix + name

    def quantize(self, loop: Loop, name: str, x: Any) -> Any:
        """`x` in the range `name` of this cell."""
        return loop.quantize(self.named(name), x)

    def add(self, loop: Loop, name: str, *terms: tuple[str, Any], minus: bool = False) -> Any:
        """The sum of two terms, each behind the name of its range, in the range `name`.

        Args:
            loop: What runs the layer.
            name: The range of the sum.
            *terms: Two tensors with the names of their ranges.
            minus: Whether to subtract the second. Defaults to False.
        """
        compute = loop.subtract if minus else loop.add
        named = [(self.named(term), x) for term, x in terms]
        return self.quantize(loop, name, compute(self.named(name), *named))

    def activate(self, loop: Loop, name: str, x: Any) -> Any:
        """The activation function whose output has the range `name`, quantized."""
        function = self.activations()[name]
        kind = activation_name(function)
        if kind == "linear":
            return x
        y = loop.hard_sigmoid(x) if kind == "hard_sigmoid" else function(x)
        return self.quantize(loop, name, y)

    def _after_dropout(self, loop: Loop, inputs: Any) -> list[Any]:
        """The inputs, once for all gates or once for each."""
        if not loop.training or not self.cell.dropout:
            return [inputs]
        masks = self.cell.get_dropout_mask(inputs[:, 0])
        self.cell.reset_dropout_mask()
        masks = masks if isinstance(masks, list) else [masks]
        return [inputs * ops.expand_dims(mask, 1) for mask in masks]

    def _recurrent_masks(self, loop: Loop, inputs: Any) -> list[Any]:
        """Dropout masks of the state, none, one for all gates or one for each."""
        if not loop.training or not self.cell.recurrent_dropout:
            return []
        state = self.cell.get_initial_state(batch_size=ops.shape(inputs)[0])[0]
        masks = self.cell.get_recurrent_dropout_mask(state)
        self.cell.reset_recurrent_dropout_mask()
        return masks if isinstance(masks, list) else [masks]


def _for_all_steps(function: Callable[..., Any], inputs: list[Any]) -> Any:
    """Apply a function of tensors of shape (batch, ...) to such of shape (batch, steps, ...)."""
    lead = ops.shape(inputs[0])[:2]
    outputs = function(*(ops.reshape(x, (-1, *x.shape[2:])) for x in inputs))
    return ops.reshape(outputs, (*lead, *outputs.shape[1:]))


def by_gate(function: Callable[[Any, Any], Any], inputs: list[Any], kernel: Any, gates: int) -> Any:
    """`function(inputs, kernel)`, with other inputs for each gate when there are several."""
    if len(inputs) == 1:
        return function(inputs[0], kernel)
    kernels = ops.split(kernel, gates, axis=-1)
    return ops.concatenate([function(x, k) for x, k in zip(inputs, kernels, strict=True)], axis=-1)

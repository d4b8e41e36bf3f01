"""The recurrent cells, spelled out with a range after every operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from tfcompress.graph import keras_internals
from tfcompress.quantization.rules.activations import activation_name
from tfcompress.quantization.rules.cell_arithmetic import (
    ACTIVATIONS,
    GATES,
    HIDDEN,
    CellArithmetic,
    by_gate,
)
from tfcompress.quantization.rules.recurrent_loop import Loop, Step, depthwise_affine
from tfcompress.quantization.rules.refusals import CHANNELS_LAST
from tfcompress.quantization.rules.registry import InnerRanges


class SimpleRNNArithmetic(CellArithmetic):
    """`activation(x W + b + h U)`."""

    def activations(self) -> dict[str, Any]:
        """One, behind which the output's range is."""
        return {"candidate": self.cell.activation}

    def ranges(self) -> InnerRanges:
        """Those of the sum and of the output, which are one without an activation."""
        kind = activation_name(self.cell.activation)
        if kind == "linear":
            return {self.hidden: None}
        return {self.prefix + GATES: None, self.hidden: ACTIVATIONS.get(kind)}

    def named(self, name: str) -> str:
        """The activation's range is the output's, and so is the sum's without an activation."""
        if name == "candidate" or activation_name(self.cell.activation) == "linear":
            name = HIDDEN
        return super().named(name)

    def step(self, loop: Loop) -> Step:
        """One sum, one activation."""
        kernel, bias = self.prepared(loop)

        def step(x: Any, states: tuple[Any, ...] | None) -> tuple[Any, tuple[Any, ...]]:
            x = self.with_state(loop, x, None if states is None else states[0], kernel, bias)
            output = self.activate(loop, "candidate", x)
            return output, (output,)

        return step


class LSTMArithmetic(CellArithmetic):
    """Input, forget and output gate, candidate and cell state."""

    states = (HIDDEN, "cell")
    gates = 4

    def activations(self) -> dict[str, Any]:
        """Also the one between the cell state and the output."""
        return {**super().activations(), "squashed": self.cell.activation}

    def ranges(self) -> InnerRanges:
        """Also those of the cell state and of what the forget gate leaves of it."""
        # A product in the range of its factor would fall between two codes all too often.
        return {**super().ranges(), self.prefix + "cell": None, self.prefix + "kept": None}

    def in_order(self, weight: Any) -> Any:
        """The three gates first, so that one sigmoid serves them all."""
        gate_i, gate_f, candidate, gate_o = ops.split(weight, 4, axis=-1)
        return ops.concatenate([gate_i, gate_f, gate_o, candidate], axis=-1)

    def step(self, loop: Loop) -> Step:
        """`c = f * c + i * g`, `h = o * activation(c)`."""
        kernel, bias = self.prepared(loop)

        def step(x: Any, states: tuple[Any, ...] | None) -> tuple[Any, tuple[Any, ...]]:
            x = self.with_state(loop, x, None if states is None else states[0], kernel, bias)
            units = x.shape[-1] // 4
            gates = self.activate(loop, "gate", x[..., : 3 * units])
            # Slices, because the first step does not use all of them.
            gate_i, gate_f, gate_o = (gates[..., n * units : (n + 1) * units] for n in range(3))
            candidate = self.activate(loop, "candidate", x[..., 3 * units :])
            cell = self.quantize(loop, "cell", gate_i * candidate)
            if states is not None:
                kept = self.quantize(loop, "kept", gate_f * states[1])
                cell = self.add(loop, "cell", ("kept", kept), ("cell", cell))
            squashed = self.activate(loop, "squashed", cell)
            output = self.quantize(loop, HIDDEN, gate_o * squashed)
            return output, (output, cell)

        return step


class ConvLSTMArithmetic(LSTMArithmetic):
    """An LSTM whose kernels are those of convolutions."""

    def refusal(self) -> str | None:
        """Only what LiteRT has integer convolutions for."""
        if self.cell.rank > 2:
            return "LiteRT has no integer 3-D convolution"
        if self.cell.data_format != "channels_last":
            return CHANNELS_LAST
        return super().refusal()

    def multiply(self, rows: Any, kernel: Any) -> Any:
        """The convolution of the inputs, with its strides and padding."""
        return ops.conv(
            rows,
            kernel,
            strides=self.cell.strides,
            padding=self.cell.padding,
            data_format="channels_last",
            dilation_rate=self.cell.dilation_rate,
        )

    def multiply_state(self, state: Any, kernel: Any) -> Any:
        """The convolution of the state, which keeps its size."""
        return ops.conv(state, kernel, padding="same", data_format="channels_last")


class GRUArithmetic(CellArithmetic):
    """Update and reset gate, candidate."""

    gates = 3

    def ranges(self) -> InnerRanges:
        """Also those of the mixture of old and new state."""
        ranges = super().ranges()
        for name in ("difference", "kept", "reset"):
            ranges[self.prefix + name] = None
        return ranges

    def input_bias(self) -> Any:
        """Of the two biases of a candidate, the one that the reset gate does not multiply."""
        if not self.cell.use_bias or not self.cell.reset_after:
            return None
        return ops.pad(self.cell.bias[0, 2 * self.cell.units :], ((2 * self.cell.units, 0),))

    def state_bias(self) -> Any:
        """All others."""
        if not self.cell.reset_after:
            return self.cell.bias
        units, (inputs, state) = 2 * self.cell.units, (self.cell.bias[0], self.cell.bias[1])
        return ops.concatenate([inputs[:units] + state[:units], state[units:]])

    def bias_units(self, inputs: Any, scale_of: Callable[[str], Any], scales: list[Any]) -> Any:
        """Those of candidates differ."""
        units, state = 2 * self.cell.units, super().bias_units(inputs, scale_of, scales)
        if not self.cell.reset_after:
            return ops.concatenate([state[:units], scale_of("reset") * scales[1][units:]])
        return ops.stack([ops.concatenate([state[:units], inputs * scales[0][units:]]), state])

    def step(self, loop: Loop) -> Step:
        """`h = candidate + z * (h - candidate)`."""
        candidate_of = self._reset_after(loop) if self.cell.reset_after else self._reset_first(loop)

        def step(x: Any, states: tuple[Any, ...] | None) -> tuple[Any, tuple[Any, ...]]:
            gate_z, candidate = candidate_of(x, None if states is None else states[0])
            if states is None:
                # LiteRT has no integer negation.
                difference = self.quantize(loop, "difference", depthwise_affine(candidate, -1.0))
            else:
                terms = (HIDDEN, states[0]), ("candidate", candidate)
                difference = self.add(loop, "difference", *terms, minus=True)
            kept = self.quantize(loop, "kept", gate_z * difference)
            output = self.add(loop, HIDDEN, ("candidate", candidate), ("kept", kept))
            return output, (output,)

        return step

    def _gates(self, loop: Loop, x: Any) -> tuple[Any, Any]:
        gates, units = self.activate(loop, "gate", x), self.cell.units
        return gates[..., :units], gates[..., units:]

    def _reset_after(self, loop: Loop) -> Callable[[Any, Any], tuple[Any, Any]]:
        units = self.cell.units
        kernel, bias = self.prepared(loop)

        def candidate_of(x: Any, state: Any) -> tuple[Any, Any]:
            x_gates, x_candidate = x[..., : 2 * units], x[..., 2 * units :]
            if state is not None:
                recurrent = self.recur(loop, state, kernel, bias)
                gates = x_gates + recurrent[..., : 2 * units]
                gate_z, gate_r = self._gates(loop, self.quantize(loop, GATES, gates))
                added = gate_r * recurrent[..., 2 * units :]
            elif bias is not None:
                gates = self.without_state(loop, x_gates, bias[: 2 * units])
                gate_z, gate_r = self._gates(loop, self.quantize(loop, GATES, gates))
                left = loop.quantized_constant(self.named(GATES), bias[2 * units :])
                added = depthwise_affine(gate_r, left)
            else:
                gate_z, _ = self._gates(loop, x_gates)
                return gate_z, self.activate(loop, "candidate", x_candidate)
            added = self.quantize(loop, "reset", added)
            x_candidate = self.add(loop, GATES, (GATES, x_candidate), ("reset", added))
            return gate_z, self.activate(loop, "candidate", x_candidate)

        return candidate_of

    def _reset_first(self, loop: Loop) -> Callable[[Any, Any], tuple[Any, Any]]:
        units, kernel = self.cell.units, self.cell.recurrent_kernel
        kernels = kernel[:, : 2 * units], kernel[:, 2 * units :]
        biases: tuple[Any, Any] = (None, None)
        if self.cell.use_bias:
            biases = self.cell.bias[: 2 * units], self.cell.bias[2 * units :]

        def added(x: Any, states: list[Any], part: int) -> Any:
            if states:
                projected = by_gate(ops.matmul, states, kernels[part], 2)
                if biases[part] is not None:
                    projected = projected + biases[part]
                x = x + self.quantize(loop, GATES, projected)
            elif biases[part] is None:
                return x
            else:
                x = self.without_state(loop, x, biases[part])
            return self.quantize(loop, GATES, x)

        def candidate_of(x: Any, state: Any) -> tuple[Any, Any]:
            dropped = [] if state is None else [state * mask for mask in self._masks] or [state]
            gates = added(x[..., : 2 * units], dropped[:2] if len(dropped) > 1 else dropped, 0)
            gate_z, gate_r = self._gates(loop, gates)
            reset = [self.quantize(loop, "reset", gate_r * h) for h in dropped[-1:]]
            candidate = added(x[..., 2 * units :], reset, 1)
            return gate_z, self.activate(loop, "candidate", candidate)

        return candidate_of


_CELLS: dict[type, type[CellArithmetic]] = {
    layers.SimpleRNNCell: SimpleRNNArithmetic,
    layers.GRUCell: GRUArithmetic,
    layers.LSTMCell: LSTMArithmetic,
}


def arithmetic_of(
    layer: keras.layers.RNN, prefix: str = "", hidden: str | None = None
) -> list[CellArithmetic] | str:
    """The arithmetic of a recurrent layer's cells, from the inputs to the outputs.

    Args:
        layer: A recurrent layer.
        prefix: Put before the names of the ranges.
        hidden: Name of the range of the layer's outputs. Defaults to None: one of its own.

    Returns:
        One for each cell, or why there is none.
    """
    if isinstance(layer, keras_internals.ConvLSTM):
        return [ConvLSTMArithmetic(layer.cell, prefix, hidden)]
    stacked = isinstance(layer.cell, layers.StackedRNNCells)
    cells = list(layer.cell.cells) if stacked else [layer.cell]
    found: list[CellArithmetic] = []
    for number, cell in enumerate(cells):
        # A subclass may compute something else.
        if type(cell) not in _CELLS:
            known = ", ".join(kind.__name__ for kind in _CELLS)
            return f"no integer form for the cell {type(cell).__name__}; these have one: {known}"
        own = f"{prefix}cell_{number}_" if stacked else prefix
        last = number == len(cells) - 1
        found.append(_CELLS[type(cell)](cell, own, hidden if last else None))
    return found

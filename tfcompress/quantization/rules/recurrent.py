"""Recurrent layers: a loop of integer operations, spelled out for export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops

from tfcompress.graph import Node, keras_internals
from tfcompress.graph.sequence_masks import is_masked
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.rules.cell_arithmetic import HIDDEN, CellArithmetic
from tfcompress.quantization.rules.recurrent_cells import arithmetic_of
from tfcompress.quantization.rules.recurrent_loop import Loop, TrainingLoop, UnrolledLoop
from tfcompress.quantization.rules.registry import InnerRanges, Rule, register, rule_of


class _Recurrence:
    """One recurrent layer in one direction.

    Args:
        layer: The layer.
        prefix: Put before the names of its ranges.
        hidden: Name of the range of its outputs. Defaults to None: one of its own.
    """

    def __init__(
        self, layer: keras.layers.RNN, prefix: str = "", hidden: str | None = None
    ) -> None:
        self.layer = layer
        self._found = arithmetic_of(layer, prefix, hidden)

    @property
    def cells(self) -> list[CellArithmetic]:
        return self._found if isinstance(self._found, list) else []

    def refusal(self) -> str | None:
        if isinstance(self._found, str):
            return self._found
        if self.layer.stateful:
            return "a LiteRT file keeps no state between calls; return and feed the state instead"
        return next((reason for cell in self.cells if (reason := cell.refusal())), None)

    def ranges(self) -> InnerRanges:
        return {name: fixed for cell in self.cells for name, fixed in cell.ranges().items()}

    def run(
        self, loop: Loop, inputs: Any, initial_state: Any, flipped: bool = False
    ) -> tuple[Any, list[Any]]:
        """The outputs and the last states, flat."""
        given = None if initial_state is None else keras.tree.flatten(initial_state)
        if given is None and isinstance(loop, TrainingLoop):
            zeros = self.layer.get_initial_state(batch_size=ops.shape(inputs)[0])
            given = [ops.cast(zero, inputs.dtype) for zero in keras.tree.flatten(zeros)]
        sequence, outputs = inputs, inputs
        last: list[Any] = []
        for number, cell in enumerate(self.cells):
            if number:
                sequence = loop.sequence(outputs)
            states = None if given is None else tuple(given[len(last) : len(last) + cell.states])
            backwards = self.layer.go_backwards and number == 0
            projected = cell.project(loop, sequence)
            outputs, states = loop.run(cell.step(loop), projected, states, backwards)
            last += list(states)
        if self.layer.return_sequences:
            return loop.sequence(outputs, flipped), last
        return outputs[-1], last


@register(layers.RNN)
class RecurrentRule(Rule):
    """`SimpleRNN`, `GRU`, `LSTM`, `ConvLSTM1D`, `ConvLSTM2D`, and `RNN` of these cells.

    In training the steps run in a loop of the backend. The exported form has no loop, which the
    converter cannot quantize: every step stands in the file, with some 3 kB in it.
    """

    def directions(self, layer: keras.layers.Layer) -> list[_Recurrence]:
        """The layers that run over the sequence."""
        return [_Recurrence(layer)]

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The kernels of every cell."""
        cells = [cell for direction in self.directions(layer) for cell in direction.cells]
        return [kernel for cell in cells for kernel in cell.kernels()]

    def refusal(self, node: Node) -> str | None:
        """Masked sequences, layers that keep their state, and cells without an integer form."""
        if is_masked(node.inputs[0]):
            return "the steps of its sequence are masked, for which there is no integer form"
        return next((r for d in self.directions(node.operation) if (r := d.refusal())), None)

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Those of every cell."""
        ranges: InnerRanges = {}
        for direction in self.directions(node.operation):
            ranges |= direction.ranges()
        return ranges

    def quantizes_output(self, node: Node, index: int) -> bool:
        """The state that goes on to the next step has its range inside, and is the output."""
        return True

    def run(
        self, layer: keras.layers.Layer, loop: Loop, inputs: Any, initial_state: Any = None
    ) -> Any:
        """The forward pass.

        Args:
            layer: The layer, whose kernels hold what to compute with.
            loop: What runs the steps.
            inputs: Shape (batch, steps, ...).
            initial_state: Initial states. Defaults to None: zeros.

        Returns:
            The outputs, followed by the states in one flat tuple if the layer returns them.
        """
        outputs, states = self.directions(layer)[0].run(loop, inputs, initial_state)
        return (outputs, *states) if layer.return_state else outputs

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A loop with the quantizers that learn."""
        training = kwargs.get("training")
        if training is None:
            training = keras_internals.is_training(wrapper)
        loop = TrainingLoop(wrapper.inner, bool(training))
        outputs = self.run(wrapper.layer, loop, inputs, _initial_state(args, kwargs))
        loop.observe()
        return outputs

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Step by step with fixed ranges."""
        quantizers = {name: wrapper.deployed_quantizer(name) for name in wrapper.inner}
        unrolled = UnrolledRecurrent(wrapper.baked_copy(), quantizers, name=wrapper.deployed_name)
        initial_state = _initial_state(args, kwargs)
        return unrolled(inputs) if initial_state is None else unrolled(inputs, initial_state)


def _initial_state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("initial_state")


@register(layers.Bidirectional)
class BidirectionalRule(RecurrentRule):
    """`Bidirectional`: both directions by themselves, then merged."""

    def directions(self, layer: keras.layers.Layer) -> list[_Recurrence]:
        """Forward and backward, whose outputs share a range where they are concatenated."""
        hidden = HIDDEN if layer.merge_mode == "concat" else None
        return [
            _Recurrence(layer.forward_layer, "forward_", hidden),
            _Recurrence(layer.backward_layer, "backward_", hidden),
        ]

    def refusal(self, node: Node) -> str | None:
        """Also outputs without a common range."""
        forward, backward = self.directions(node.operation)
        differ = forward.ranges().get(HIDDEN) != backward.ranges().get(HIDDEN)
        if node.operation.merge_mode == "concat" and differ:
            return "the outputs of its two directions have no common range"
        return super().refusal(node)

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Also that of a sum that is halved."""
        ranges = super().inner_quantizers(node)
        return {**ranges, "sum": None} if node.operation.merge_mode == "ave" else ranges

    def quantizes_output(self, node: Node, index: int) -> bool:
        """Not sums and products."""
        return index > 0 or node.operation.merge_mode in ("concat", None)

    def run(
        self, layer: keras.layers.Layer, loop: Loop, inputs: Any, initial_state: Any = None
    ) -> Any:
        """Both directions."""
        forward, backward = self.directions(layer)
        first: Any = None
        second: Any = None
        if initial_state is not None:
            given = keras.tree.flatten(initial_state)
            first, second = given[: len(given) // 2], given[len(given) // 2 :]
        ahead, states = forward.run(loop, inputs, first)
        back, more = backward.run(loop, inputs, second, flipped=True)
        merged = self._merge(layer.merge_mode, loop, ahead, back)
        outputs = (*merged, *states, *more) if layer.return_state else merged
        return outputs if len(outputs) > 1 else outputs[0]

    def _merge(self, mode: str | None, loop: Loop, ahead: Any, back: Any) -> tuple[Any, ...]:
        if mode is None:
            return ahead, back
        if mode == "concat":
            return (ops.concatenate([ahead, back], axis=-1),)
        if mode == "mul":
            return (ahead * back,)
        if mode == "sum":
            return (ahead + back,)
        return (loop.quantize("sum", ahead + back) * 0.5,)


@keras.saving.register_keras_serializable("tfcompress")
class UnrolledRecurrent(keras.layers.Wrapper):
    """A recurrent layer as it is exported: every step spelled out, with fixed ranges.

    Args:
        layer: The recurrent layer, with baked kernels.
        quantizers: Quantizers with fixed ranges by name, or their configs.

    Call arguments:
        inputs: Shape (batch, steps, ...), the steps fixed when the layer is traced.
        initial_state: Initial states. Defaults to None: zeros.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        quantizers: Mapping[str, ActivationQuantizer | dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.quantizers = {
            name: ActivationQuantizer.from_config(entry) if isinstance(entry, dict) else entry
            for name, entry in quantizers.items()
        }

    def call(self, inputs: Any, initial_state: Any = None) -> Any:
        """Run all steps."""
        rule: Any = rule_of(self.layer)
        return rule.run(self.layer, UnrolledLoop(self.quantizers), inputs, initial_state)

    def compute_output_spec(self, inputs: Any, initial_state: Any = None) -> Any:
        """That of the layer, with the states in one flat tuple."""
        # Cells inside the layer may have another dtype than that of the export.
        flat = [
            keras.KerasTensor(tensor.shape, dtype=self.compute_dtype)
            for tensor in keras.tree.flatten(self.layer.compute_output_spec(inputs))
        ]
        return flat[0] if len(flat) == 1 else tuple(flat)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        quantizers = {name: quantizer.get_config() for name, quantizer in self.quantizers.items()}
        return {**super().get_config(), "quantizers": quantizers}

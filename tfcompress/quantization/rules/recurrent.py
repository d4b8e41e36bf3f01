"""Recurrent layers: a loop of integer operations, spelled out for export."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops

from tfcompress.graph import Node, Tensor, keras_internals
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.bias_grid import round_bias
from tfcompress.quantization.rules.cell_arithmetic import HIDDEN, CellArithmetic
from tfcompress.quantization.rules.channel_affine import apart
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
        self, loop: Loop, inputs: Any, initial_state: Any, mask: Any, flipped: bool = False
    ) -> tuple[Any, list[Any]]:
        """The outputs and the last states, flat."""
        given = None if initial_state is None else keras.tree.flatten(initial_state)
        if given is None and isinstance(loop, TrainingLoop):
            zeros = self.layer.get_initial_state(batch_size=ops.shape(inputs)[0])
            given = [ops.cast(zero, inputs.dtype) for zero in keras.tree.flatten(zeros)]
        sequence, outputs = inputs, inputs
        if mask is not None:
            mask = ops.expand_dims(ops.cast(mask, "bool"), -1)
        last: list[Any] = []
        for number, cell in enumerate(self.cells):
            if number:
                sequence = loop.sequence(outputs)
            states = None if given is None else given[len(last) : len(last) + len(cell.states)]
            backwards = self.layer.go_backwards and number == 0
            projected = cell.project(loop, sequence)
            if initial_state is not None:
                # A step knows one range of each state.
                names = map(cell.named, cell.states)
                states = list(map(loop.quantize, names, states or ()))
            if mask is None:
                outputs, states = loop.run(cell.step(loop), projected, states, backwards)
            else:
                if states is not None:
                    states = loop.zeros_like(states[0]), *states
                step = cell.masked_step(loop, self.layer.zero_output_for_mask)
                outputs, (_, *states) = loop.run(step, (projected, mask), states, backwards)
                mask = ops.flip(mask, axis=1) if backwards else mask
            last += states
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

    def rounded_biases(self, wrapper: Any) -> list[tuple[keras.Variable, Any]]:
        """Those of every cell, in units of the sums that it is added to."""
        kernels, found = iter(wrapper.kernels), []
        for direction in self.directions(wrapper.layer):
            unit = wrapper.source_unit()
            for cell in direction.cells:
                scales = [next(kernels).channel_scale() for _ in cell.kernels()]

                def scale_of(name: str, cell: CellArithmetic = cell) -> Any:
                    return wrapper.inner[cell.named(name)].scale()

                if cell.cell.use_bias:
                    with keras_internals.without_autocast():
                        bias = ops.cast(cell.cell.bias.value, "float32")
                    columns = [ops.broadcast_to(scale, bias.shape[-1:]) for scale in scales]
                    units = cell.bias_units(0.0 if unit is None else unit, scale_of, columns)
                    found.append((cell.cell.bias, round_bias(bias, units)))
                unit = scale_of(HIDDEN)
        return found

    def output_unit(self, wrapper: Any) -> Any:
        """That of the hidden state, if it is all that the layer returns."""
        if wrapper.layer.return_state:
            return None
        return wrapper.inner[self.directions(wrapper.layer)[0].cells[-1].named(HIDDEN)].scale()

    def refusal(self, node: Node) -> str | None:
        """Layers that keep their state, cells without an integer form, and masks in float."""
        mask = node.arguments.get("mask")
        if isinstance(mask, Tensor) and mask.is_float:
            return f"its mask is {mask.dtype}; give a mask of dtype bool or int32"
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
        self,
        layer: keras.layers.Layer,
        loop: Loop,
        inputs: Any,
        initial_state: Any = None,
        mask: Any = None,
    ) -> Any:
        """The forward pass.

        Args:
            layer: The layer, whose kernels hold what to compute with.
            loop: What runs the steps.
            inputs: Shape (batch, steps, ...).
            initial_state: Initial states. Defaults to None: zeros.
            mask: Booleans of shape (batch, steps), false for steps to pass over. Defaults to None.

        Returns:
            The outputs, followed by the states in one flat tuple if the layer returns them.
        """
        outputs, states = self.directions(layer)[0].run(loop, inputs, initial_state, mask)
        return (outputs, *states) if layer.return_state else outputs

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A loop with the quantizers that learn."""
        given = _arguments(wrapper.layer, inputs, args, kwargs)
        training = given.pop("training", None)
        if training is None:
            training = keras_internals.is_training(wrapper)
        loop = TrainingLoop(wrapper.inner, bool(training), wrapper.computes_integers)
        outputs = self.run(wrapper.layer, loop, **given)
        loop.observe()
        return outputs

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Step by step with fixed ranges."""
        quantizers = {name: wrapper.deployed_quantizer(name) for name in wrapper.inner}
        copy = wrapper.baked_copy()
        cells = [each.cell for direction in self.directions(copy) for each in direction.cells]
        biases = [cell.bias for cell in cells if cell.use_bias]
        for bias, (_, value) in zip(biases, self.rounded_biases(wrapper), strict=True):
            bias.assign(value)
        unrolled = UnrolledRecurrent(copy, quantizers, name=wrapper.deployed_name)
        given = _arguments(wrapper.layer, inputs, args, kwargs)
        given.pop("training", None)
        if given.get("initial_state") is not None:
            # Of two ranges in a row the converter drops one.
            given["initial_state"] = [
                apart(state, wrapper.ranges_before + number, f"{unrolled.name}_state_{number}")
                for number, state in enumerate(keras.tree.flatten(given["initial_state"]))
            ]
        return unrolled(**given)


def _arguments(
    layer: keras.layers.Layer, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a layer's call by name, its sequence as `inputs`."""
    named = inspect.signature(layer.call).bind(inputs, *args, **kwargs).arguments
    sequence, *_ = named
    return {"inputs": named.pop(sequence), **named}


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

    def output_unit(self, wrapper: Any) -> Any:
        """That which both directions share."""
        return super().output_unit(wrapper) if wrapper.layer.merge_mode == "concat" else None

    def run(
        self,
        layer: keras.layers.Layer,
        loop: Loop,
        inputs: Any,
        initial_state: Any = None,
        mask: Any = None,
    ) -> Any:
        """Both directions."""
        forward, backward = self.directions(layer)
        first: Any = None
        second: Any = None
        if initial_state is not None:
            given = keras.tree.flatten(initial_state)
            first, second = given[: len(given) // 2], given[len(given) // 2 :]
        ahead, states = forward.run(loop, inputs, first, mask)
        back, more = backward.run(loop, inputs, second, mask, flipped=True)
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
        mask: Booleans of shape (batch, steps), false for steps to pass over. Defaults to None.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        quantizers: Mapping[str, ActivationQuantizer | dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.supports_masking = True
        self.quantizers = {
            name: ActivationQuantizer.from_config(entry) if isinstance(entry, dict) else entry
            for name, entry in quantizers.items()
        }

    def call(self, inputs: Any, initial_state: Any = None, mask: Any = None) -> Any:
        """Run all steps."""
        rule: Any = rule_of(self.layer)
        return rule.run(self.layer, UnrolledLoop(self.quantizers), inputs, initial_state, mask)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(inputs, mask)

    def compute_output_spec(self, inputs: Any, initial_state: Any = None, mask: Any = None) -> Any:
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

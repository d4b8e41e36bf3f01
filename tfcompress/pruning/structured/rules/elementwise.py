"""Operations that treat every element by itself, on one tensor or several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node, Tensor, keras_internals
from tfcompress.graph.axes import axes_of
from tfcompress.graph.rebuild import fill
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.activations import is_elementwise
from tfcompress.pruning.structured.rules.registry import Rule, describe, pinned, register

# What other operands may hold: False, and anything but 0 and 1, which several functions map to 0.
_PROBES = (0.73, -0.73, 0.0)
_MOST_COMBINED = 3


@register(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    keras_internals.CustomScaleLayer,
    keras_internals.StochasticDepth,
    layers.Add,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.Subtract,
)
@register(
    *("Abs", "Absolute", "Add", "Ceil", "Celu", "Clip", "Cos", "Divide", "DivideNoNan", "Elu"),
    *("Equal", "Erf", "Exp", "Expm1", "Floor", "Gelu", "Greater", "GreaterEqual", "HardShrink"),
    *("HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Less", "LessEqual", "Log", "Log1p"),
    *("LogSigmoid", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Multiply"),
    *("Negative", "NotEqual", "Power", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt", "Selu"),
    *("Sigmoid", "Sign", "Silu", "Sin", "SoftShrink", "Softplus", "Softsign", "Sqrt", "Square"),
    *("Squareplus", "StopGradient", "Subtract", "Tanh", "TanhShrink", "Threshold", "TrueDivide"),
    *("Where", "Cast"),
)
class ElementwiseRule(Rule):
    """Ties the channels of its operands, aligned at their last axes; an axis of 1 is repeated."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Tie what meets; try out whether zeros stay zeros."""
        if any(isinstance(leaf, keras.Variable) for leaf in _constants(node)):
            return pinned(node, coupling, f"{describe(node)} has a variable among its arguments")
        output = node.outputs[0]
        axes = [self._along(node, coupling, axis) for axis in range(len(output.shape))]
        if all(labels is None for labels in axes):
            return [Flow(axes, False)]
        zero, finite = answer_to_zeros(node, coupling)
        if not finite:
            for labels in axes:
                coupling.pin(labels, f"{describe(node)} is infinite where they are zero")
        return [Flow(axes, zero)]

    def _along(self, node: Node, coupling: Coupling, axis: int) -> Labels:
        output = node.outputs[0]
        size = output.shape[axis]
        found: Labels = None
        without: Tensor | None = None
        for tensor in node.inputs:
            own = aligned(tensor.shape, output, axis, node)
            if own is None or (tensor.shape[own] == 1 and size != 1):
                continue
            labels = coupling.flow(tensor).axes[own]
            if labels is None:
                without = tensor
            elif found is None:
                found = labels
            else:
                coupling.tie(found, labels, "")
        if without is not None:
            coupling.pin(found, f"{describe(node)} joins them to '{without.name}', which stays")
        return found

    def arguments(
        self, node: Node, kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrays with one value a channel lose those of the removed ones."""
        output = node.outputs[0]

        def smaller(leaf: Any) -> Any:
            if not _is_array(leaf):
                return leaf
            values = ops.convert_to_numpy(leaf)
            for axis, labels in enumerate(kept.coupling.flow(output).axes):
                own = aligned(values.shape, output, axis, node)
                positions = kept.positions(labels)
                if own is not None and positions is not None and values.shape[own] > 1:
                    values = np.take(values, positions, own)
            return values

        smaller_args, smaller_kwargs = keras.tree.map_structure(smaller, (args, kwargs))
        return smaller_args, smaller_kwargs


def aligned(shape: Any, output: Tensor, axis: int, node: Node) -> int | None:
    """The axis of an operand that meets an axis of the output; None if it is repeated there."""
    rank = len(output.shape)
    if node.layer is not None and len(shape) < rank:
        # Keras' merging layers add axes behind the batch, where the operand has none.
        return 0 if axis == 0 else (axis - rank + len(shape) if axis > rank - len(shape) else None)
    own = axis - rank + len(shape)
    return own if own >= 0 else None


def answer_to_zeros(node: Node, coupling: Coupling) -> tuple[bool, bool]:
    """What an operation makes of channels that are zero because their weights are.

    It is tried out on single values.

    Args:
        node: The operation.
        coupling: What is known of its operands.

    Returns:
        Whether the result is zero whatever operands without such channels hold, and whether it is
        finite.
    """
    zeros = [(flow := coupling.flow(x)).zero and bool(flow.labelled) for x in node.inputs]
    if not any(zeros):
        return False, True
    zero = finite = True
    for probes in _probes(zeros.count(False)):
        others = iter(probes)
        values = {}
        for tensor, is_zero in zip(node.inputs, zeros, strict=True):
            value = 0.0 if is_zero else next(others)
            shape = (1,) * len(tensor.shape)
            values[tensor] = ops.cast(ops.full(shape, value, "float32"), tensor.dtype)
        result = node.operation(*fill(node.args, values), **fill(node.kwargs, values))
        result = ops.convert_to_numpy(result).astype(float)
        if all(probe > 0 for probe in probes):
            finite = bool(np.all(np.isfinite(result)))
        # What is infinite beside a zero, as a quotient by it, is so in the dense model too.
        zero &= bool(np.all(result[np.isfinite(result)] == 0))
    return zero and finite, finite


def _probes(count: int) -> Iterable[tuple[float, ...]]:
    """Values to try for several operands; of many not all combinations."""
    if count <= _MOST_COMBINED:
        return itertools.product(_PROBES, repeat=count)
    return [(probe,) * count for probe in _PROBES]


def _constants(node: Node) -> list[Any]:
    leaves = keras.tree.flatten((node.args, node.kwargs))
    return [leaf for leaf in leaves if not isinstance(leaf, Tensor)]


def _is_array(leaf: Any) -> bool:
    plain = isinstance(leaf, (bool, int, float, str, keras.KerasTensor)) or leaf is None
    return not plain and len(getattr(leaf, "shape", ())) > 0


@register(layers.Activation)
class ActivationRule(ElementwiseRule):
    """A function that may also work over an axis, as softmax does."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Element-wise, or pinned."""
        function = node.operation.activation
        if not is_elementwise(function):
            flow = coupling.flow(node.inputs[0])
            name = getattr(function, "__name__", type(function).__name__)
            coupling.pin(flow.axes[-1], f"{describe(node)} computes {name} over them")
            return [Flow(list(flow.axes), False)]
        return super().couple(node, coupling)


@register(layers.Softmax, "Softmax", "LogSoftmax", "Sparsemax")
class SoftmaxRule(Rule):
    """A function over an axis, to which zeros add: these channels stay, others do not."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pin the axis."""
        given = node.inputs[0]
        flow = coupling.flow(given)
        axis = getattr(node.operation, "axis", -1)
        for index in axes_of(-1 if axis is None else axis, len(given.shape)):
            coupling.pin(flow.axes[index], f"{describe(node)} is computed over them")
        for other in node.inputs[1:]:
            coupling.pin_others(other, (), f"{describe(node)} reads them as a mask")
        return [Flow(list(flow.axes), False)]


@register(layers.Rescaling)
class RescalingRule(ElementwiseRule):
    """`x * scale + offset`, either of which may have one value a channel."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pinned where it has."""
        layer = node.operation
        if np.size(layer.scale) > 1 or np.size(layer.offset) > 1:
            reason = f"{describe(node)} has a list with one value for each of them"
            return pinned(node, coupling, reason)
        return super().couple(node, coupling)

"""Arithmetic with constants, and of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import Node, Tensor
from tfcompress.graph.axes import axes_of
from tfcompress.quantization.rules.activations import quantized_constant
from tfcompress.quantization.rules.composed import ComposedRule
from tfcompress.quantization.rules.decompositions import CLIPPED_RANGE
from tfcompress.quantization.rules.merging import ArithmeticRule, SameRangeRule, added
from tfcompress.quantization.rules.operation_layer import OperationLayer, operation_of
from tfcompress.quantization.rules.registry import InnerRanges, Role, Rule, register


def constants_of(node: Node) -> list[np.ndarray]:
    """The arguments of an operation that are no tensors of the graph."""
    found = [*node.args, *node.kwargs.values()]
    return [ops.convert_to_numpy(x) for x in found if not isinstance(x, Tensor) and x is not None]


def has_array(node: Node) -> bool:
    """Whether an operation has a constant of more than one value."""
    return any(constant.size > 1 for constant in constants_of(node))


@register("Subtract", "Multiply")
class ConstantArithmeticRule(ComposedRule, ArithmeticRule):
    """Two tensors, or a tensor and a constant.

    A scalar has a code of its own; arrays are rounded to 8 bits with one scale, so their values are
    quantized in training as well.
    """

    def wraps(self, node: Node) -> bool:
        """For arrays."""
        return node.layer is None and has_array(node)

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Callable[[str], Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The operation with its constants quantized."""
        values = [inputs, *args]
        if isinstance(layer, OperationLayer):
            for position in layer.constants:
                constant = ops.cast(values[position], "float32")
                values[position] = ops.cast(quantized_constant(constant), layer.compute_dtype)
        return operation_of(layer)(*values)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """With the constants as they are while nothing is quantized."""
        if not wrapper.quantizing:
            return operation_of(wrapper.layer)(inputs, *args, **kwargs)
        return super().call(wrapper, inputs, *args, **kwargs)


@register("Add")
class AddOperationRule(ConstantArithmeticRule):
    """The sum of two tensors, or of a tensor and a constant."""

    def wraps(self, node: Node) -> bool:
        """For two tensors too, to add them as integers in evaluation."""
        return super().wraps(node) or len(node.inputs) == 2

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The sum."""
        tensors = not wrapper.layer.constants and args
        if tensors:
            return added(wrapper, [inputs, *args])
        return super().call(wrapper, inputs, *args, **kwargs)


@register("Divide", "TrueDivide")
class DivideRule(ArithmeticRule):
    """By a constant, which the converter makes a multiplication."""

    def refusal(self, node: Node) -> str | None:
        """Other divisors: every range holds zero."""
        if len(node.inputs) > 1 or not isinstance(node.args[0], Tensor):
            return "a divisor that rounds to the code of zero has no finite quotient"
        if has_array(node):
            return "the divisor is an array; multiply by its reciprocal instead"
        return None


@register("Rsqrt", "Log", "Log2", "Log10", "Reciprocal")
class PoleRule(Rule):
    """Functions that are infinite at zero."""

    def refusal(self, node: Node) -> str | None:
        """Every range holds zero."""
        name = node.type_name.lower()
        return f"values that round to the code of zero have no finite {name}"


class OperationRule(ComposedRule):
    """An operation of one tensor that is exported in another form."""

    def wraps(self, node: Node) -> bool:
        """Unless it stays float."""
        return self.role(node) is not Role.FLOAT


@register("Negative")
class NegativeRule(OperationRule):
    """A product, because LiteRT has no integer negation."""

    def compose(
        self, layer: Any, quantizer: Callable[[str], Any], inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Times -1."""
        return ops.multiply(inputs, -1.0)


@register("Square")
class SquareRule(OperationRule):
    """A product of a tensor with itself."""

    def compose(
        self, layer: Any, quantizer: Callable[[str], Any], inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Times itself."""
        return ops.multiply(inputs, inputs)


@register("Power")
class PowerRule(SquareRule):
    """Squares."""

    def refusal(self, node: Node) -> str | None:
        """Any exponent but 2."""
        exponents = constants_of(node)
        if len(node.inputs) == 1 and [e.tolist() for e in exponents] == [2]:
            return None
        return "LiteRT has no integer power; only the exponent 2 is a product"


@register("Sqrt")
class SquareRootRule(OperationRule):
    """One operation, whose gradient at the code of zero is kept finite in training."""

    def compose(
        self, layer: Any, quantizer: Callable[[str], Any], inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The root."""
        return ops.sqrt(inputs)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The root, at least of a vanishing number."""
        return ops.sqrt(ops.maximum(inputs, keras.backend.epsilon()))


@register("Sum")
class SumRule(OperationRule):
    """A mean times the number of values: LiteRT's reference kernel of SUM is wrong in integers."""

    def refusal(self, node: Node) -> str | None:
        """Sums over axes of no fixed size."""
        return None if self._count(node.operation, node.inputs[0].shape) else "an axis of no size"

    def _count(self, operation: Any, shape: tuple[int | None, ...]) -> int:
        return math.prod(shape[a] or 0 for a in axes_of(operation.axis, len(shape)))

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """The mean's."""
        return {"mean": None}

    def compose(
        self, layer: Any, quantizer: Callable[[str], Any], inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Mean and product."""
        operation = operation_of(layer)
        mean = ops.mean(inputs, axis=operation.axis, keepdims=operation.keepdims)
        count = self._count(operation, inputs.shape)
        return ops.multiply(quantizer("mean")(mean), float(count))


@register("Clip")
class ClipRule(OperationRule):
    """A fused activation where the bounds are those of one, else a minimum and a maximum."""

    def role(self, node: Node) -> Role:
        """From zero, an activation; otherwise the range of the input is kept."""
        low, high = self._bounds(node.operation)
        if low == 0 and high > 0:
            return Role.ACTIVATION
        if (low, high) == (-1, 1):
            return Role.COMPUTE
        return Role.FLOAT if self.refusal(node) else Role.PASS_THROUGH

    def _bounds(self, operation: Any) -> tuple[float, float]:
        if np.size(operation.x_min) > 1 or np.size(operation.x_max) > 1:
            return -math.inf, math.inf
        return float(operation.x_min), float(operation.x_max)

    def refusal(self, node: Node) -> str | None:
        """Bounds that are arrays."""
        if not all(map(math.isfinite, self._bounds(node.operation))):
            return "its bounds are not single numbers"
        return None

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """Ends where the values are cut off."""
        low, high = self._bounds(node.operation)
        if (low, high) == (-1, 1):
            return CLIPPED_RANGE
        return (0.0, high) if low == 0 and high not in (0, 6) else None

    def rounds(self, node: Node) -> bool:
        """The bounds have no codes of their own."""
        return self.role(node) is Role.PASS_THROUGH

    def wraps(self, node: Node) -> bool:
        """Where the range cuts off."""
        low, high = self._bounds(node.operation)
        return low == 0 and high not in (0, 6)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The operation itself."""
        return wrapper.layer(inputs)

    def compose(
        self, layer: Any, quantizer: Callable[[str], Any], inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """What the range does not cut off."""
        return ops.relu(inputs)


@register("Maximum", "Minimum")
class ExtremeRule(SameRangeRule):
    """Of two tensors, which share a range, or of a tensor and a number."""

    def role(self, node: Node) -> Role:
        """With zero a maximum is a ReLU; with other numbers the range of the input is kept."""
        if self.refusal(node):
            return Role.FLOAT
        if len(node.inputs) > 1:
            return Role.SAME_RANGE
        rectifies = node.type_name == "Maximum" and constants_of(node)[0].item() == 0
        return Role.ACTIVATION if rectifies else Role.PASS_THROUGH

    def refusal(self, node: Node) -> str | None:
        """Constant arrays."""
        if has_array(node):
            return f"{node.type_name} with an array has no common range"
        return None

    def rounds(self, node: Node) -> bool:
        """A number has no code of its own."""
        return self.role(node) is Role.PASS_THROUGH

    def wraps(self, node: Node) -> bool:
        """A ReLU, for the exported form: the converter makes it one too late."""
        return self.role(node) is Role.ACTIVATION

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The operation itself."""
        return operation_of(wrapper.layer)(inputs, *args, **kwargs)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The ReLU."""
        values = [inputs, *args]
        number = wrapper.layer.constants[0]
        return ops.relu(values[1 - number])

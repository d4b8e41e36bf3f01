"""Operations on several tensors, and arithmetic between tensors."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.graph import Node, keras_internals
from tfcompress.quantization.rules.composed import ComposedRule, Quantizers
from tfcompress.quantization.rules.registry import InnerRanges, Role, Rule, register


@register(layers.Subtract)
class ArithmeticRule(Rule):
    """Two tensors, or a tensor and a constant, element by element."""

    def fuses_relu(self, node: Node) -> bool:
        """LiteRT's ADD, SUB and MUL have a fused activation."""
        return True


class ChainRule(ComposedRule, ArithmeticRule):
    """A layer that combines its inputs two by two, each result an operation with a range."""

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One for each result but the last."""
        return {f"partial_{i}": None for i in range(1, len(node.inputs) - 1)}

    def combine(self, a: Any, b: Any) -> Any:
        """The result for two tensors."""
        return ops.add(a, b)

    def compose(
        self, layer: Any, quantizer: Quantizers, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The chain, quantized at every link but the last."""
        first, *between, last = inputs
        for number, x in enumerate(between, start=1):
            first = quantizer(f"partial_{number}")(self.combine(first, x))
        return self.combine(first, last)


def added(wrapper: Any, tensors: list[Any]) -> Any:
    """Tensors added one by one, each sum but the last quantized inside the wrapper."""
    result, unit = tensors[0], wrapper.source_unit()
    for number, x in enumerate(tensors[1:], start=1):
        quantizer = wrapper.inner.get(f"partial_{number}")
        result = wrapper.added(result, x, (unit, wrapper.source_unit(number)), quantizer)
        if quantizer is not None:
            result, unit = quantizer(result), quantizer.scale()
    return result


@register(layers.Add)
class AddRule(ChainRule):
    """`Add` of two or more tensors."""

    def wraps(self, node: Node) -> bool:
        """Always, to add as integers in evaluation."""
        return True

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The sums, quantized at every link but the last."""
        return added(wrapper, inputs)


@register(layers.Multiply)
class MultiplyRule(ChainRule):
    """`Multiply` of two or more tensors."""

    def combine(self, a: Any, b: Any) -> Any:
        """The product."""
        return ops.multiply(a, b)


@register(layers.Average)
class AverageRule(ChainRule):
    """`Average`: sums, and a multiplication by a constant, an operation of its own."""

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One for each sum."""
        return {f"partial_{i}": None for i in range(1, len(node.inputs))}

    def compose(
        self, layer: Any, quantizer: Quantizers, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The chain, quantized at every link, and a product."""
        total = super().compose(layer, quantizer, inputs, *args, **kwargs)
        return ops.multiply(quantizer(f"partial_{len(inputs) - 1}")(total), 1.0 / len(inputs))


@register(keras_internals.CustomScaleLayer)
class ScaledSumRule(ComposedRule, ArithmeticRule):
    """`x + scale * y` of the residual blocks of InceptionResNetV2."""

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One for the product."""
        return {"product": None}

    def compose(
        self, layer: Any, quantizer: Quantizers, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """A product and a sum."""
        x, y = inputs
        return ops.add(x, quantizer("product")(ops.multiply(y, layer.scale)))

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same, added as integers in evaluation."""
        x, y = inputs
        quantizer = wrapper.inner["product"]
        product = quantizer(ops.multiply(y, wrapper.layer.scale))
        return wrapper.added(x, product, (wrapper.source_unit(), quantizer.scale()))


@register(layers.Concatenate, layers.Maximum, layers.Minimum, "Concatenate", "Stack")
class SameRangeRule(Rule):
    """Inputs and output share one range; with other ranges values would be wrong or requantized."""

    def role(self, node: Node) -> Role:
        """`SAME_RANGE`."""
        return Role.SAME_RANGE


@register("Abs", "Absolute", "Mean")
@register(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
class ComputeRule(Rule):
    """An operation whose output has a range of its own and that fuses nothing."""


@register(layers.GlobalAveragePooling1D)
class StepsMeanRule(ComputeRule):
    """The mean over the steps of a sequence."""

    def refusal(self, node: Node) -> str | None:
        """Where a mask leaves out steps."""
        if node.arguments.get("mask") is None:
            return None
        return "it divides by the number of steps that its mask leaves, for which 8 bits are few"

"""Operations on several tensors, and arithmetic between tensors."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.quantization.rules.registry import InnerRanges, Role, Rule, register


@register(layers.Subtract)
class ArithmeticRule(Rule):
    """Two tensors, or a tensor and a constant, element by element."""

    def fuses_relu(self, node: Node) -> bool:
        """LiteRT's ADD, SUB and MUL have a fused activation."""
        return True


class ChainRule(ArithmeticRule):
    """A layer that combines its inputs two by two, each result an operation with a range."""

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One for each result but the last."""
        return {f"partial_{i}": None for i in range(1, len(node.inputs) - 1)}

    def combine(self, a: Any, b: Any) -> Any:
        """The result for two tensors."""
        return ops.add(a, b)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The chain, quantized at every link but the last."""
        return self._chain(inputs, wrapper.inner)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same chain."""
        return self._chain(
            inputs, {name: wrapper.deployed_quantizer(name) for name in wrapper.inner}
        )

    def _chain(self, inputs: list[Any], quantizers: dict[str, Any]) -> Any:
        result = inputs[0]
        for number, x in enumerate(inputs[1:], start=1):
            result = self.combine(result, x)
            quantizer = quantizers.get(f"partial_{number}")
            result = result if quantizer is None else quantizer(result)
        return result


@register(layers.Add)
class AddRule(ChainRule):
    """`Add` of two or more tensors."""


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

    def fuses_relu(self, node: Node) -> bool:
        """The multiplication does."""
        return True

    def _chain(self, inputs: list[Any], quantizers: dict[str, Any]) -> Any:
        return ops.multiply(super()._chain(inputs, quantizers), 1.0 / len(inputs))


@register(layers.Concatenate, layers.Maximum, layers.Minimum, "Concatenate", "Stack")
class SameRangeRule(Rule):
    """Inputs and output share one range; with other ranges values would be wrong or requantized."""

    def role(self, node: Node) -> Role:
        """`SAME_RANGE`."""
        return Role.SAME_RANGE


@register("Abs", "Absolute", "Mean", layers.GlobalAveragePooling1D)
@register(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
class ComputeRule(Rule):
    """An operation whose output has a range of its own and that fuses nothing."""

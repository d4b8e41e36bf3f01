"""Einsum layers, and products of two tensors."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.quantization.rules.activations import (
    activate,
    activation_kind,
    activation_quantizers,
    activation_refusal,
    is_fused,
)
from tfcompress.quantization.rules.composed import ComposedRule, Quantizers
from tfcompress.quantization.rules.contraction import Contraction
from tfcompress.quantization.rules.refusals import LORA
from tfcompress.quantization.rules.registry import InnerRanges, Rule, register

PRODUCT = "product"


def einsum_refusal(layer: keras.layers.EinsumDense, rank: int) -> str | None:
    """Why an `EinsumDense` has no integer form for inputs of a given rank, or None."""
    contraction = Contraction.of(layer.equation, rank)
    if layer.lora_enabled:
        return LORA
    if contraction.shared:
        return (
            f"its kernel differs along the axis '{contraction.shared}' that input and output "
            "share, and LiteRT's batched product has no integer kernel with a scale for each"
        )
    if not contraction.free.startswith(contraction.source[0]):
        return f"the batch is not the first axis of the output of '{layer.equation}'"
    return None


@register(layers.EinsumDense)
class EinsumDenseRule(ComposedRule):
    """One fully connected operation, between reshapes and transpositions.

    A bias that differs along other axes than the output channels is an addition of its own.
    """

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The kernel, whose scales differ along all axes that it adds."""
        rank = len(layer.equation.split(",")[0].replace("...", ""))
        return [(layer.kernel, Contraction.of(layer.equation, rank).channel_axes)]

    def refusal(self, node: Node) -> str | None:
        """Kernels that differ along an axis of input and output."""
        layer = node.operation
        reason = einsum_refusal(layer, len(node.inputs[0].shape))
        return reason or activation_refusal(layer.activation)

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """That of the layer's activation."""
        return activation_kind(node.operation.activation).fixed_range

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Before a bias that is an operation of its own, and around such an activation."""
        layer = node.operation
        contraction = Contraction.of(layer.equation, len(node.inputs[0].shape))
        ranges = activation_quantizers(layer.activation)
        if not contraction.bias_is_of_channels(layer.bias_axes):
            ranges = {PRODUCT: None, **ranges}
        return ranges

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Product, bias, activation."""
        contraction = Contraction.of(layer.equation, len(inputs.shape))
        function = layer.activation
        if not contraction.bias_is_of_channels(layer.bias_axes):
            outputs = contraction(inputs, layer.kernel, finish=quantizer(PRODUCT))
            outputs = ops.add(outputs, ops.cast(layer.bias, outputs.dtype))
            return activate(function, outputs, quantizer)
        fused = function if is_fused(function) else None
        outputs = contraction(
            inputs,
            layer.kernel,
            layer.bias,
            layer.bias_axes or "",
            fused,
            quantizer.bias_grid(),
        )
        return outputs if is_fused(function) else activate(function, outputs, quantizer)


class TensorProductRule(Rule):
    """A product of two tensors that are both computed."""

    def refusal(self, node: Node) -> str | None:
        """Constants, which training would not round as LiteRT does."""
        if len(node.inputs) != 2:
            return (
                "not a product of two computed tensors; for a constant factor use a Dense or "
                "EinsumDense layer, whose kernel is trained quantized"
            )
        return None


@register("Matmul")
class MatmulRule(TensorProductRule):
    """`keras.ops.matmul` and `@`."""


@register(layers.Dot)
class DotRule(TensorProductRule):
    """The `Dot` layer."""

    def refusal(self, node: Node) -> str | None:
        """Normalized factors."""
        if node.operation.normalize:
            return "Dot(normalize=True) divides by norms, for which there is no integer kernel"
        return super().refusal(node)


@register("Einsum")
class EinsumRule(TensorProductRule):
    """`keras.ops.einsum` of two tensors, as far as it is one product."""

    def refusal(self, node: Node) -> str | None:
        """Diagonals, and sums over one factor alone."""
        if reason := super().refusal(node):
            return reason
        equation = node.operation.subscripts.replace(" ", "")
        terms, _, target = equation.partition("->")
        first, _, second = terms.partition(",")
        for term, other in ((first, second), (second, first)):
            letters = term.replace("...", "")
            if len(set(letters)) != len(letters):
                return f"'{equation}' takes a diagonal, for which there is no integer kernel"
            if "->" in equation and set(letters) - set(other) - set(target):
                return f"'{equation}' sums over an axis of one factor alone; use `ops.sum` first"
        return None

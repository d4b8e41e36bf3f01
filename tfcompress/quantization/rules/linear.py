"""Convolutions and dense layers: a kernel, a bias, an activation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers, ops

from tfcompress.export.convolutions import (
    PlaneConv1D,
    PlaneConv2D,
    PlaneDepthwiseConv1D,
    PlaneDepthwiseConv2D,
    plane_class,
)
from tfcompress.graph import Node
from tfcompress.quantization.integer_arithmetic import TwoRoundings
from tfcompress.quantization.rules.activations import PRE_ACTIVATION as PRE_ACTIVATION
from tfcompress.quantization.rules.activations import (
    activate,
    activation_kind,
    activation_name,
    activation_quantizers,
    activation_refusal,
    is_fused,
)
from tfcompress.quantization.rules.refusals import CHANNELS_LAST, LORA
from tfcompress.quantization.rules.registry import InnerRanges, Rule, register


@contextmanager
def linear_activation(layer: keras.layers.Layer) -> Iterator[None]:
    """Make a layer compute its pre-activation inside the block."""
    activation = layer.__dict__["activation"]
    # Through __dict__, because attribute tracking is closed once a layer is built.
    layer.__dict__["activation"] = keras.activations.linear
    try:
        yield
    finally:
        layer.__dict__["activation"] = activation


def deployed_activation(wrapper: Any, outputs: Any) -> Any:
    """The activation of a wrapped layer as it is exported, behind the rest of the layer."""
    function = wrapper.layer.activation
    deployed = activation_kind(function).deployed
    if deployed is not None:
        return deployed(outputs)
    return activate(function, outputs, wrapper.deployed_quantizer)


@register(layers.Dense)
class LinearRule(Rule):
    """A kernel whose last axis is the output channel.

    LiteRT fuses only ReLU and ReLU6 into the operation. Any other activation is an operation of its
    own, which needs the pre-activation quantized as well.
    """

    channel_axes: tuple[int, ...] = (-1,)

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The kernel."""
        return [(layer.kernel, self.channel_axes)]

    def bias(self, layer: keras.layers.Layer) -> keras.Variable | None:
        """The layer's bias."""
        return layer.bias if layer.use_bias else None

    def units(self, wrapper: Any) -> tuple[Any, ...]:
        """That of the sums that the bias is added to."""
        return (wrapper.accumulator_unit(),)

    def refusal(self, node: Node) -> str | None:
        """Other layouts than channels-last, and activations without an integer form."""
        if getattr(node.layer, "data_format", "channels_last") != "channels_last":
            return CHANNELS_LAST
        if getattr(node.layer, "lora_enabled", False):
            return LORA
        return activation_refusal(node.operation.activation)

    def folds_batchnorm(self, node: Node) -> bool:
        """Only without an activation between."""
        return activation_name(node.operation.activation) == "linear"

    def fuses_relu(self, node: Node) -> bool:
        """Only without another activation between."""
        return self.folds_batchnorm(node)

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """That of the layer's activation."""
        return activation_kind(node.operation.activation).fixed_range

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Before and in an activation that does not fuse."""
        return activation_quantizers(node.operation.activation)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Quantize between the linear part and an activation that does not fuse."""
        if PRE_ACTIVATION not in wrapper.inner:
            return wrapper.requantized(wrapper.layer(inputs, *args, **kwargs))
        with linear_activation(wrapper.layer):
            outputs = wrapper.layer(inputs, *args, **kwargs)
        outputs = wrapper.requantized(outputs, wrapper.inner[PRE_ACTIVATION])
        return activate(wrapper.layer.activation, outputs, wrapper.inner.__getitem__)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The linear layer, and behind it an activation that does not fuse."""
        kind = plane_class(type(wrapper.layer))
        outputs = wrapper.baked_copy(kind, activation="linear")(inputs)
        return deployed_activation(wrapper, outputs)


@register(layers.Conv1D, layers.Conv2D)
class ConvolutionRule(LinearRule):
    """As a dense layer, but XNNPACK does not run it where the kernel is packed."""

    def roundings(self, wrapper: Any, number: int) -> TwoRoundings | None:
        """Of LiteRT's kernels for packed weights; that of groups rounds halves in another way."""
        if not wrapper.scheme.is_packed:
            return None
        return TwoRoundings(wrapper.scheme.packed_factor, away=wrapper.layer.groups > 1)


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseRule(LinearRule):
    """Every input channel has `depth_multiplier` output channels, each with a scale."""

    channel_axes = (-2, -1)


@register(layers.Conv1DTranspose, layers.Conv2DTranspose)
class TransposeRule(LinearRule):
    """Kernels of shape (..., output channels, input channels)."""

    channel_axes = (-2,)

    def refusal(self, node: Node) -> str | None:
        """Dilated transposed convolutions have no LiteRT kernel."""
        if any(rate != 1 for rate in node.operation.dilation_rate):
            return "LiteRT has no dilated transposed convolution"
        return super().refusal(node)

    def folds_batchnorm(self, node: Node) -> bool:
        """Not behind the reshape of a single channel, as neither a ReLU is fused there."""
        single = isinstance(node.operation, layers.Conv1DTranspose) and node.operation.filters == 1
        return super().folds_batchnorm(node) and not single

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """With an activation that fuses, ahead of the reshape of a single channel."""
        if not is_fused(wrapper.layer.activation):
            return super().deploy(wrapper, inputs, *args, **kwargs)
        return wrapper.baked_copy(plane_class(type(wrapper.layer)))(inputs)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableRule(LinearRule):
    """A depthwise and a pointwise convolution, two LiteRT operations with a range between."""

    summing_kernel = 1
    summed_range = "depthwise"

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Both kernels."""
        return [(layer.depthwise_kernel, (-2, -1)), (layer.pointwise_kernel, (-1,))]

    def units(self, wrapper: Any) -> tuple[Any, ...]:
        """Those of the pointwise and of the depthwise convolution."""
        unit = wrapper.source_unit()
        depthwise = None if unit is None else unit * wrapper.kernels[0].channel_scale()
        return (wrapper.accumulator_unit(), depthwise)

    def roundings(self, wrapper: Any, number: int) -> TwoRoundings | None:
        """Of the pointwise convolution, where its weights are packed."""
        if number or not wrapper.scheme.is_packed:
            return None
        return TwoRoundings(wrapper.scheme.packed_factor)

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One between the two convolutions."""
        return {"depthwise": None, **super().inner_quantizers(node)}

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's own arithmetic with a quantizer between the two convolutions."""
        layer = wrapper.layer
        strides = layer.strides if len(set(layer.strides)) > 1 else layer.strides[0]
        outputs = ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        between = wrapper.inner["depthwise"]
        outputs = between(wrapper.requantized(outputs, between, number=1))
        outputs = ops.conv(
            outputs, layer.pointwise_kernel, padding="valid", data_format=layer.data_format
        )
        if layer.use_bias:
            outputs = ops.add(outputs, ops.cast(layer.bias, outputs.dtype))
        outputs = wrapper.requantized(outputs, wrapper.inner.get(PRE_ACTIVATION))
        return activate(layer.activation, outputs, wrapper.inner.__getitem__)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A depthwise convolution, a quantizer and a 1x1 convolution."""
        layer = wrapper.layer
        one_dimensional = isinstance(layer, layers.SeparableConv1D)
        depthwise_class = PlaneDepthwiseConv1D if one_dimensional else PlaneDepthwiseConv2D
        pointwise_class = PlaneConv1D if one_dimensional else PlaneConv2D
        depthwise_kernel, pointwise_kernel = wrapper.baked_kernels()
        depthwise = depthwise_class(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depth_multiplier=layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{wrapper.deployed_name}_depthwise",
        )
        pointwise = pointwise_class(
            layer.filters, 1, use_bias=layer.use_bias, name=wrapper.deployed_name
        )
        outputs = wrapper.deployed_quantizer("depthwise")(depthwise(inputs))
        outputs = pointwise(outputs)
        depthwise.set_weights([depthwise_kernel])
        bias = [wrapper.deployed_bias()] if layer.use_bias else []
        pointwise.set_weights([pointwise_kernel, *bias])
        return deployed_activation(wrapper, outputs)

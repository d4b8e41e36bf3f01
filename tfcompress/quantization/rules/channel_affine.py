"""Layers that scale and shift every channel: batch normalization, rescaling, normalization."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node, keras_internals
from tfcompress.quantization.bias_grid import round_bias, told_apart
from tfcompress.quantization.rules.registry import Rule, register
from tfcompress.quantization.substitution import substituted


def channel_affine(inputs: Any, scale: Any, offset: Any, name: str | None = None) -> Any:
    """`inputs * scale + offset` over the last axis as a 1x1 depthwise convolution.

    Args:
        inputs: Symbolic tensor of rank 2 or more, with at most one axis of no fixed size apart from
            the batch unless its rank is 4.
        scale: Scalar or of shape (channels,).
        offset: Scalar or of shape (channels,).
        name: Name of the convolution. Defaults to None: a new one.

    Returns:
        A symbolic tensor of the shape of `inputs`.
    """
    channels = inputs.shape[-1]
    scale, offset = (
        np.broadcast_to(np.asarray(x, "float32").reshape(-1), (channels,)) for x in (scale, offset)
    )
    convolution = layers.DepthwiseConv2D(1, name=name)
    spatial = inputs.shape[1:-1]
    if len(spatial) == 2:
        outputs = convolution(inputs)
    else:
        shape = [-1 if size is None else size for size in spatial]
        plane = (1, -1) if -1 in shape else (1, math.prod(shape))
        outputs = convolution(layers.Reshape((*plane, channels))(inputs))
        outputs = layers.Reshape((*shape, channels))(outputs)
    convolution.set_weights([scale.reshape(1, 1, channels, 1), told_apart(offset)])
    return outputs


class ChannelAffineRule(Rule, ABC):
    """`y = x * scale + offset` over the last axis.

    As a multiplication and an addition it would lose precision to one scale for all channels, so it
    is exported as a 1x1 depthwise convolution, whose channels have scales of their own.
    """

    @abstractmethod
    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """Both float32 tensors of shape (channels,) or scalars."""

    def rounding(self, wrapper: Any) -> Any:
        """What the offset's rounding in LiteRT adds to it, or None where that is not known."""
        unit = None if wrapper.scheme.bias == "float" else wrapper.source_unit()
        if unit is None:
            return None
        with keras_internals.without_autocast():
            scale, offset = self.scale_and_offset(wrapper.layer)
        unit = unit * ops.abs(scale)
        if not wrapper.folded:
            # The factor of a channel is its only weight, and so has the largest code.
            unit = unit / 127
        else:
            bias = wrapper.input_source.operation.float_bias()
            offset = offset if bias is None else offset + bias * scale
        return ops.stop_gradient(round_bias(offset, unit) - offset)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer with its offset as LiteRT rounds it."""
        outputs = wrapper.layer(inputs, *args, **kwargs)
        rounding = self.rounding(wrapper)
        return outputs if rounding is None else outputs + ops.cast(rounding, outputs.dtype)

    def fuses_relu(self, node: Node) -> bool:
        """As convolutions do."""
        return True

    def wraps(self, node: Node) -> bool:
        """Always, for the exported form."""
        return True

    def refusal(self, node: Node) -> str | None:
        """Integer inputs, and open shapes without a 2-D form."""
        tensor = node.inputs[0]
        if not tensor.is_float:
            return f"its input holds {tensor.dtype}, which has no activation range"
        if len(tensor.shape) < 2:
            return f"no integer form for inputs of rank {len(tensor.shape)}"
        if len(tensor.shape) != 4 and tensor.shape[1:].count(None) > 1:
            return "its input has several axes of no fixed size apart from the batch"
        if node.inputs[0].shape[-1] is None:
            return "the number of channels is not fixed"
        return None

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A 1x1 depthwise convolution, between reshapes when the input is not an image."""
        rounding = self.rounding(wrapper)
        rounding = 0.0 if rounding is None else ops.convert_to_numpy(rounding)
        if wrapper.folded:
            return self.deployed_folded(wrapper.baked_copy(), rounding)(inputs)
        scale, offset = map(ops.convert_to_numpy, self.scale_and_offset(wrapper.layer))
        return channel_affine(inputs, scale, offset + rounding, wrapper.deployed_name)

    def deployed_folded(self, layer: keras.layers.Layer, rounding: Any) -> keras.layers.Layer:
        """The exported form of a layer that folds, with its offset shifted by `rounding`."""
        return layer


@register(layers.BatchNormalization)
class BatchNormalizationRule(ChannelAffineRule):
    """Folded into the convolution before it where there is one, else a depthwise convolution.

    Training keeps it unfolded: weights with one symmetric scale for each channel commute with the
    factor that folding puts on the channel, so the integer codes stay the same.
    """

    def refusal(self, node: Node) -> str | None:
        """Only over the last axis."""
        axis, rank = node.operation.axis, len(node.inputs[0].shape)
        if axis not in (-1, rank - 1):
            return f"no integer form for axis {axis}; only the last axis has one"
        return super().refusal(node)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """With the moving statistics, unchanged, while frozen; rounded where they are used."""
        layer = wrapper.layer
        if wrapper.frozen:
            kwargs = {**kwargs, "training": False}
        elif layer.trainable and keras_internals.is_training(wrapper):
            return layer(inputs, *args, **kwargs)
        if not layer.center:
            return super().call(wrapper, inputs, *args, **kwargs)
        rounding = self.rounding(wrapper)
        if rounding is None:
            return layer(inputs, *args, **kwargs)
        with substituted(
            layer, {id(layer.beta): layer.beta + ops.cast(rounding, wrapper.compute_dtype)}
        ):
            return layer(inputs, *args, **kwargs)

    def deployed_folded(self, layer: keras.layers.Layer, rounding: Any) -> keras.layers.Layer:
        """With the rounding in beta, where there is one."""
        if layer.center:
            layer.beta.assign(layer.beta + rounding)
        return layer

    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """From the moving statistics, gamma and beta."""
        scale = ops.rsqrt(ops.add(layer.moving_variance, layer.epsilon))
        if layer.scale:
            scale = scale * layer.gamma
        offset = -layer.moving_mean * scale
        return scale, offset + layer.beta if layer.center else offset


@register(layers.Rescaling)
class RescalingRule(ChannelAffineRule):
    """`Rescaling(scale, offset)`, scalars or one value for each channel."""

    def refusal(self, node: Node) -> str | None:
        """Factors that differ along other axes."""
        layer = node.operation
        sizes = {np.shape(value) for value in (layer.scale, layer.offset)}
        if not sizes <= {(), (1,), (node.inputs[0].shape[-1],)}:
            return "its scale or offset differs along other axes than the last one"
        return super().refusal(node)

    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """The layer's arguments."""
        return tuple(ops.convert_to_tensor(x, "float32") for x in (layer.scale, layer.offset))


@register(layers.Normalization)
class NormalizationRule(ChannelAffineRule):
    """`Normalization` with statistics over the last axis or all axes, in either direction."""

    def refusal(self, node: Node) -> str | None:
        """Statistics over other axes."""
        layer = node.operation
        axes = tuple(layer.axis) if isinstance(layer.axis, (tuple, list)) else (layer.axis,)
        rank = len(node.inputs[0].shape)
        if any(a is not None and a % rank != rank - 1 for a in axes):
            return f"no integer form for Normalization(axis={layer.axis}); only the last axis"
        return super().refusal(node)

    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """From the adapted mean and variance."""
        mean = ops.reshape(layer.mean, (-1,))
        deviation = ops.sqrt(ops.reshape(layer.variance, (-1,)))
        deviation = ops.maximum(deviation, keras.backend.epsilon())
        return (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)

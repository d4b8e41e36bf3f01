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
from tfcompress.quantization.integer_arithmetic import TwoRoundings, short_scale, straight_through
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


def apart(inputs: Any, number: int, name: str) -> Any:
    """`inputs` through a convolution by one, so that the converter gives it another range.

    It refuses one fake quantization on another, and the QUANTIZE operation that it would place by
    itself rounds less exactly than a convolution.

    Args:
        inputs: Symbolic tensor, as of `channel_affine`.
        number: Different wherever the same values get different ranges: the converter merges equal
            convolutions, and leaves one that has two ranges in float.
        name: Name of the convolution.

    Returns:
        A symbolic tensor of the shape of `inputs`.
    """
    return channel_affine(inputs, 1.0 + 2.0**-22 * number, 0.0, name)


# Of the weights of 8 bits that a factor becomes.
LARGEST_CODE = 127


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
        unit = self.unit(wrapper)
        if unit is None:
            return None
        _, offset = self.whole(wrapper)
        return ops.stop_gradient(round_bias(offset, unit) - offset)

    def units(self, wrapper: Any) -> tuple[Any, ...]:
        """That of the sums that the offset is added to."""
        return (self.unit(wrapper),)

    def unit(self, wrapper: Any) -> Any:
        """What one of LiteRT's integer sums is worth, of shape (channels,) or (1,), or None."""
        unit = wrapper.source_unit()
        if unit is None:
            return None
        return unit * ops.abs(self._code(wrapper))

    def _code(self, wrapper: Any) -> Any:
        """What one code of the factor is worth, with its sign: it has the largest code."""
        scale, _ = self.whole(wrapper)
        return short_scale(scale * (1.0 / LARGEST_CODE))

    def sums(self, wrapper: Any, inputs: Any) -> Any:
        """LiteRT's integer sums, of the shape of the inputs, before the bias."""
        codes = ops.round(inputs / ops.where(wrapper.source_unit() > 0, wrapper.source_unit(), 1.0))
        return codes * LARGEST_CODE * ops.sign(self._code(wrapper))

    def whole(self, wrapper: Any) -> tuple[Any, Any]:
        """Scale and offset of all that becomes one operation."""
        with keras_internals.without_autocast():
            return self.scale_and_offset(wrapper.layer)

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer with its offset and its results as LiteRT rounds them."""
        outputs = wrapper.layer(inputs, *args, **kwargs)
        unit = None if wrapper.infers_shapes else self.unit(wrapper)
        if unit is None:
            return outputs
        if not wrapper.computes_integers:
            return outputs + ops.cast(self.rounding(wrapper), outputs.dtype)
        _, offset = self.whole(wrapper)
        exact = self.sums(wrapper, inputs) * unit + round_bias(offset, unit)
        outputs = straight_through(outputs, ops.where(unit > 0, exact, outputs))
        return wrapper.requantized(outputs)

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
        _, offset = map(ops.convert_to_numpy, self.whole(wrapper))
        scale = LARGEST_CODE * ops.convert_to_numpy(self._code(wrapper))
        return channel_affine(inputs, scale, offset + rounding, wrapper.deployed_name)


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
        if not layer.center or not keras_internals.is_training(wrapper):
            return super().call(wrapper, inputs, *args, **kwargs)
        rounding = self.rounding(wrapper)
        if rounding is None:
            return layer(inputs, *args, **kwargs)
        with substituted(
            layer, {id(layer.beta): layer.beta + ops.cast(rounding, wrapper.compute_dtype)}
        ):
            return layer(inputs, *args, **kwargs)

    def sums(self, wrapper: Any, inputs: Any) -> Any:
        """Of a folded one: those of the operation before it."""
        if not wrapper.folded:
            return super().sums(wrapper, inputs)
        source = wrapper.input_source()
        bias, unit = source.float_bias(), source.accumulator_unit()
        sums = inputs if bias is None else inputs - bias
        return ops.round(sums / ops.where(unit > 0, unit, 1.0)) * ops.sign(self._code(wrapper))

    def unit(self, wrapper: Any) -> Any:
        """Of a folded one: the scale of the input times that of the folded weights."""
        if not wrapper.folded:
            return super().unit(wrapper)
        source = wrapper.input_source()
        unit = source.summed_unit() if hasattr(source, "summed_unit") else None
        return None if unit is None else unit * ops.abs(self._code(wrapper))

    def roundings(self, wrapper: Any, number: int) -> TwoRoundings | None:
        """Of a folded one: those of the operation before it."""
        source = wrapper.input_source()
        found: TwoRoundings | None = None
        if wrapper.folded:
            found = source.rule.roundings(source, number)
        return found

    def whole(self, wrapper: Any) -> tuple[Any, Any]:
        """With the bias of the operation before it, where it folds."""
        scale, offset = super().whole(wrapper)
        source = wrapper.input_source()
        bias = source.float_bias() if wrapper.folded and hasattr(source, "float_bias") else None
        return scale, offset if bias is None else offset + bias * scale

    def _code(self, wrapper: Any) -> Any:
        """Of a folded one: that of the weights behind the folding."""
        if not wrapper.folded:
            return super()._code(wrapper)
        scale, _ = super().whole(wrapper)
        return short_scale(wrapper.input_source().summing_kernel().channel_scale() * scale)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """In the weights and the bias of the operation before it, if it folds."""
        if not wrapper.folded:
            return super().deploy(wrapper, inputs, *args, **kwargs)
        unit = self.unit(wrapper)
        before, tensors = keras_internals.origin_of(inputs)
        if unit is None:
            return wrapper.baked_copy()(inputs)
        _, offset = self.whole(wrapper)
        folded = type(before).from_config({**before.get_config(), "use_bias": True})
        outputs = folded(*tensors)
        weights, code = map(ops.convert_to_numpy, (before.kernel, self._code(wrapper)))
        kernel = wrapper.input_source().summing_kernel().regridded(weights, code)
        offset = ops.convert_to_numpy(round_bias(offset, unit))
        folded.set_weights([kernel, told_apart(np.broadcast_to(offset, folded.bias.shape))])
        return outputs

    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """From the moving statistics, gamma and beta."""
        scale = ops.rsqrt(ops.add(layer.moving_variance, layer.epsilon))
        if layer.scale:
            scale = scale * layer.gamma
        offset = -layer.moving_mean * scale
        return scale, offset + layer.beta if layer.center else offset


@register(keras_internals.LayerScale)
class LayerScaleRule(ChannelAffineRule):
    """ConvNeXt's trained factor for each channel."""

    def scale_and_offset(self, layer: keras.layers.Layer) -> tuple[Any, Any]:
        """The factor, and no offset."""
        return layer.gamma.value, ops.zeros(layer.gamma.shape)


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

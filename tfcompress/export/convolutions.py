"""Convolutions that become one operator each."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

# Rounded to no integer code, and not taken away by the converter, as zeros are.
_VANISHING = 1e-30
_SERIALIZED = keras.saving.register_keras_serializable("tfcompress")


class _OneOperator:
    """A convolution with its bias in two dimensions, dilated by the operator itself.

    Keras adds the bias of a one-dimensional convolution behind a reshape, which the converter
    exchanges with the addition only for more than one channel. TensorFlow shifts dilated images
    into the batch and back, which the converter recognises only where no second convolution reads
    the shifted image. In both cases a quantized convolution would be left in float.
    """

    @property
    def adds_late(self) -> bool:
        """Whether the bias is added behind the reshape all the same."""
        return False

    def call(self, inputs: Any) -> Any:
        """The sums with their bias; the activation."""
        layer: Any = self
        if layer.rank > 1:
            return self._finished(layer.sums(inputs))
        sums = layer.sums(ops.expand_dims(inputs, 1))
        if self.adds_late:
            return self._finished(ops.squeeze(sums, 1))
        return ops.squeeze(self._finished(sums), 1)

    def _finished(self, sums: Any) -> Any:
        layer: Any = self
        bias = layer.summand()
        return layer.activation(sums if bias is None else ops.add(sums, bias))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """That of the Keras layer, without running TensorFlow."""
        layer: Any = self
        return keras.KerasTensor(layer.compute_output_shape(inputs.shape), dtype="float32")

    def summand(self) -> Any:
        """What is added to the sums, or None."""
        layer: Any = self
        return layer.bias if layer.use_bias else None

    def in_plane(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Two sizes, of which that of the row that a sequence is, is 1."""
        return (1, *sizes) if len(sizes) == 1 else sizes

    def plane_kernel(self) -> Any:
        """The kernel, of four dimensions."""
        layer: Any = self
        return ops.expand_dims(layer.kernel, 0) if layer.rank == 1 else layer.kernel


class _Convolution(_OneOperator):
    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        import tensorflow as tf

        layer: Any = self
        padding = layer.padding
        if padding == "causal":
            before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
            inputs, padding = tf.pad(inputs, ((0, 0), (0, 0), (before, 0), (0, 0))), "valid"
        return tf.nn.conv2d(
            inputs,
            tf.convert_to_tensor(self.plane_kernel()),
            self.in_plane(layer.strides),
            padding.upper(),
            dilations=self.in_plane(layer.dilation_rate),
        )


class _Depthwise(_OneOperator):
    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        import tensorflow as tf

        layer: Any = self
        # The operator has one stride for both axes; that over a single row does not matter.
        return tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=tf.convert_to_tensor(self.plane_kernel()),
            strides=[1, layer.strides[0], layer.strides[0], 1],
            padding=layer.padding.upper(),
            dilations=[1, *self.in_plane(layer.dilation_rate), 1],
        )


class _Transposed(_OneOperator):
    @property
    def adds_late(self) -> bool:
        """With several channels: only an addition takes a ReLU ahead of the reshape."""
        layer: Any = self
        return bool(layer.rank == 1 and layer.filters > 1)

    def summand(self) -> Any:
        """The bias; a vanishing one where there is none, behind which a ReLU fuses."""
        layer: Any = self
        return _VANISHING + (layer.bias if layer.use_bias else ops.zeros((layer.filters,)))

    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        layer: Any = self
        padding = layer.output_padding
        if padding is not None and layer.rank == 1:
            padding = (0, *padding) if isinstance(padding, (list, tuple)) else (0, padding)
        return ops.conv_transpose(
            inputs,
            self.plane_kernel(),
            strides=self.in_plane(layer.strides),
            padding=layer.padding,
            output_padding=padding,
            data_format="channels_last",
        )


@_SERIALIZED
class PlaneConv1D(_Convolution, layers.Conv1D):
    """`Conv1D` as one operator."""


@_SERIALIZED
class PlaneConv2D(_Convolution, layers.Conv2D):
    """`Conv2D` as one operator."""


@_SERIALIZED
class PlaneDepthwiseConv1D(_Depthwise, layers.DepthwiseConv1D):
    """`DepthwiseConv1D` as one operator."""


@_SERIALIZED
class PlaneDepthwiseConv2D(_Depthwise, layers.DepthwiseConv2D):
    """`DepthwiseConv2D` as one operator."""


@_SERIALIZED
class PlaneConv1DTranspose(_Transposed, layers.Conv1DTranspose):
    """`Conv1DTranspose` as one operator."""


@_SERIALIZED
class PlaneConv2DTranspose(_Transposed, layers.Conv2DTranspose):
    """`Conv2DTranspose` as one operator."""


_IN_PLANE: dict[type, type] = {
    layers.Conv1D: PlaneConv1D,
    layers.Conv2D: PlaneConv2D,
    layers.DepthwiseConv1D: PlaneDepthwiseConv1D,
    layers.DepthwiseConv2D: PlaneDepthwiseConv2D,
    layers.Conv1DTranspose: PlaneConv1DTranspose,
    layers.Conv2DTranspose: PlaneConv2DTranspose,
}


def plane_class(kind: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
    """The class that a layer of a Keras class has in an exported graph.

    Args:
        kind: Class of a layer; one that is not Keras' own comes back as it is.
    """
    return _IN_PLANE.get(kind, kind)

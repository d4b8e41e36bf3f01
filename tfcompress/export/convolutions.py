"""Convolutions that become one operator each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
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

    # Of the Keras layers that this is mixed into.
    rank: int
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    output_padding: Any
    use_bias: bool
    kernel: Any
    bias: Any
    activation: Callable[[Any], Any]
    compute_output_shape: Callable[[Any], Any]

    @abstractmethod
    def sums(self, inputs: Any) -> Any:
        """The convolution of an image, of rank 4, without a bias."""

    @property
    def adds_late(self) -> bool:
        """Whether the bias is added behind the reshape all the same."""
        return False

    def call(self, inputs: Any) -> Any:
        """The sums with their bias; the activation."""
        if self.rank > 1:
            return self._finished(self.sums(inputs))
        sums = self.sums(ops.expand_dims(inputs, 1))
        if self.adds_late:
            return self._finished(ops.squeeze(sums, 1))
        return ops.squeeze(self._finished(sums), 1)

    def _finished(self, sums: Any) -> Any:
        bias = self.summand()
        return self.activation(sums if bias is None else ops.add(sums, bias))

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """That of the Keras layer, without running TensorFlow."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def summand(self) -> Any:
        """What is added to the sums, or None."""
        return self.bias if self.use_bias else None

    def in_plane(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Two sizes, of which that of the row that a sequence is, is 1."""
        return (1, *sizes) if len(sizes) == 1 else sizes

    def plane_kernel(self) -> Any:
        """The kernel, of four dimensions."""
        return ops.expand_dims(self.kernel, 0) if self.rank == 1 else self.kernel


class _Convolution(_OneOperator):
    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        import tensorflow as tf

        padding = self.padding
        if padding == "causal":
            before = (self.kernel_size[0] - 1) * self.dilation_rate[0]
            inputs, padding = tf.pad(inputs, ((0, 0), (0, 0), (before, 0), (0, 0))), "valid"
        return tf.nn.conv2d(
            inputs,
            tf.convert_to_tensor(self.plane_kernel()),
            self.in_plane(self.strides),
            padding.upper(),
            dilations=self.in_plane(self.dilation_rate),
        )


class _Depthwise(_OneOperator):
    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        import tensorflow as tf

        # The operator has one stride for both axes; that over a single row does not matter.
        return tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=tf.convert_to_tensor(self.plane_kernel()),
            strides=[1, self.strides[0], self.strides[0], 1],
            padding=self.padding.upper(),
            dilations=[1, *self.in_plane(self.dilation_rate), 1],
        )


class _Transposed(_OneOperator):
    @property
    def adds_late(self) -> bool:
        """With several channels: only an addition takes a ReLU ahead of the reshape."""
        return bool(self.rank == 1 and self.filters > 1)

    def summand(self) -> Any:
        """The bias; a vanishing one where there is none, behind which a ReLU fuses."""
        return _VANISHING + (self.bias if self.use_bias else ops.zeros((self.filters,)))

    def sums(self, inputs: Any) -> Any:
        """The convolution without a bias."""
        padding = self.output_padding
        if padding is not None and self.rank == 1:
            padding = (0, *padding) if isinstance(padding, (list, tuple)) else (0, padding)
        return ops.conv_transpose(
            inputs,
            self.plane_kernel(),
            strides=self.in_plane(self.strides),
            padding=self.padding,
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

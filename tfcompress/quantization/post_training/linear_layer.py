"""Convolutions and dense layers as matrices from input channels to output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.quantization.rules import rule_of

# Axes of the output channels and the axis of the input channels in a kernel.
_AXES: dict[type, tuple[tuple[int, ...], int]] = {
    layers.Dense: ((-1,), -2),
    layers.Conv1D: ((-1,), -2),
    layers.Conv2D: ((-1,), -2),
    layers.DepthwiseConv1D: ((-2, -1), -2),
    layers.DepthwiseConv2D: ((-2, -1), -2),
    layers.Conv1DTranspose: ((-2,), -1),
    layers.Conv2DTranspose: ((-2,), -1),
}


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer with one kernel, seen by its channels.

    Args:
        layer: A built layer.
        output_axes: Axes of its kernel that make up the output channels.
        input_axis: Axis of the input channels.
    """

    layer: keras.layers.Layer
    output_axes: tuple[int, ...]
    input_axis: int

    @classmethod
    def of(cls, node: Node) -> LinearLayer | None:
        """The layer of a node, or None when it is no convolution or dense layer with one kernel."""
        layer = node.layer
        if layer is None or type(layer) not in _AXES or rule_of(layer).refusal(node):
            return None
        return cls(layer, *_AXES[type(layer)])

    @property
    def kernel(self) -> np.ndarray:
        """Its value, float32."""
        return np.asarray(ops.convert_to_numpy(self.layer.kernel.value), "float32")

    @property
    def bias(self) -> np.ndarray | None:
        """Its value, of shape (output channels,), or None."""
        if not self.layer.use_bias:
            return None
        return np.asarray(ops.convert_to_numpy(self.layer.bias.value), "float32")

    @property
    def groups(self) -> int:
        """Groups of input channels that are convolved apart."""
        return int(getattr(self.layer, "groups", 1))

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.input_axis in self.output_axes

    @property
    def pads(self) -> bool:
        """Whether zeros around its input take part in what it computes."""
        size = getattr(self.layer, "kernel_size", (1,))
        return getattr(self.layer, "padding", "valid") != "valid" and max(size) > 1

    def scaled_outputs(self, factor: np.ndarray) -> np.ndarray:
        """The kernel with every output channel multiplied.

        Args:
            factor: Shape (output channels,).
        """
        kernel = self.kernel
        axes = [axis % kernel.ndim for axis in self.output_axes]
        shape = [size if axis in axes else 1 for axis, size in enumerate(kernel.shape)]
        product: np.ndarray = kernel * factor.reshape(shape)
        return product

    def by_input(self, channels: int) -> np.ndarray:
        """The kernel with its input channels first: shape (channels, others).

        Args:
            channels: Number of channels; a dense layer behind a flattening has several inputs of
                each.
        """
        return self._by_input(self.kernel, channels).reshape(channels, -1)

    def _by_input(self, kernel: np.ndarray, channels: int) -> np.ndarray:
        if kernel.shape[self.input_axis] == channels:
            return np.moveaxis(kernel, self.input_axis, 0)
        return np.moveaxis(kernel.reshape(-1, channels, kernel.shape[-1]), 1, 0)

    def scaled_inputs(self, factor: np.ndarray) -> np.ndarray:
        """The kernel with everything that reads an input channel multiplied.

        Args:
            factor: Shape (channels,).
        """
        kernel = self.kernel.copy()
        view = self._by_input(kernel, len(factor))
        view *= factor.reshape(-1, *[1] * (view.ndim - 1))
        return kernel

    def response(self, constant: np.ndarray) -> np.ndarray:
        """What a constant input adds to the output channels, without the bias.

        Args:
            constant: Shape (input channels,).

        Returns:
            Shape (output channels,).
        """
        kernel = self.scaled_inputs(constant)
        axes = [axis % kernel.ndim for axis in self.output_axes]
        others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
        return kernel.sum(axis=others).reshape(-1)

    def assign(self, kernel: Any = None, bias: Any = None) -> None:
        """Give the layer new values.

        Args:
            kernel: Defaults to None: as it is.
            bias: Defaults to None: as it is.
        """
        if kernel is not None:
            self.layer.kernel.assign(kernel)
        if bias is not None:
            self.layer.bias.assign(bias)

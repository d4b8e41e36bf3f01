"""Average pooling as tfmot trains it: with a range for what comes out."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.graph import Node
from tfcompress.quantization.rules.registry import Role, Rule, register


@keras.saving.register_keras_serializable("tfcompress")
class RangedAveragePooling1D(layers.AveragePooling1D):
    """`AveragePooling1D` whose output is quantized over a range of its own.

    LiteRT's pooling keeps the range of its input, and quantization-aware layers follow it; tfmot
    has learned a range for the averages, which is kept by this layer in the place of the plain one.
    """


@keras.saving.register_keras_serializable("tfcompress")
class RangedAveragePooling2D(layers.AveragePooling2D):
    """`AveragePooling2D` whose output is quantized over a range of its own.

    See `RangedAveragePooling1D`.
    """


_PLAIN: dict[Any, Any] = {
    RangedAveragePooling1D: layers.AveragePooling1D,
    RangedAveragePooling2D: layers.AveragePooling2D,
}


def with_own_range(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer to put in the place of one whose output has a range in tfmot's training.

    Args:
        layer: A Keras 3 layer that is not built.

    Returns:
        An average pooling with a range of its own for an average pooling, else `layer`.
    """
    for ranged, plain in _PLAIN.items():
        if type(layer) is plain:
            made: keras.layers.Layer = ranged.from_config(layer.get_config())
            return made
    return layer


@register(RangedAveragePooling1D, RangedAveragePooling2D)
class RangedAveragePoolingRule(Rule):
    """A computation like any other, exported as a depthwise convolution.

    The kernel of a pooling would round the averages to codes of the input's range first.
    """

    def role(self, node: Node) -> Role:
        """`COMPUTE`."""
        return Role.FLOAT if self.refusal(node) else Role.COMPUTE

    def refusal(self, node: Node) -> str | None:
        """Only the channels-last layout converts."""
        if node.operation.data_format != "channels_last":
            return "LiteRT has kernels for the channels_last data format only"
        return None

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return True

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A depthwise convolution with equal weights; a pooling where padding is not averaged."""
        layer, name = wrapper.layer, wrapper.deployed_name
        if layer.padding != "valid" or len(set(layer.strides)) > 1:
            plain = next(plain for ranged, plain in _PLAIN.items() if isinstance(layer, ranged))
            return plain.from_config({**layer.get_config(), "name": name})(inputs)
        flat = isinstance(layer, RangedAveragePooling1D)
        kind = layers.DepthwiseConv1D if flat else layers.DepthwiseConv2D
        convolution = kind(layer.pool_size, layer.strides, use_bias=False, name=name)
        outputs = convolution(inputs)
        share = 1.0 / math.prod(layer.pool_size)
        convolution.set_weights([np.full(convolution.kernel.shape, share, "float32")])
        return outputs

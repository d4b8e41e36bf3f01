"""Operations that move, select or repeat values, whose output keeps the scale of the input."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.quantization.rules.refusals import CHANNELS_LAST
from tfcompress.quantization.rules.registry import Role, Rule, register


@register(
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    "ExpandDims",
    "GetItem",
    "Amax",
    "Amin",
    "Max",
    "MaxPool",
    "Min",
    "Ravel",
    "Reshape",
    "Roll",
    "Split",
    "Squeeze",
    "Swapaxes",
    "Moveaxis",
    "Transpose",
)
class PassThroughRule(Rule):
    """A range of its own would be pushed back into the producer or cost a requantization."""

    def role(self, node: Node) -> Role:
        """`PASS_THROUGH`."""
        return Role.FLOAT if self.refusal(node) else Role.PASS_THROUGH

    def refusal(self, node: Node) -> str | None:
        """Only the channels-last layout converts."""
        pools = getattr(node.layer, "pool_size", None) is not None
        if pools and node.operation.data_format != "channels_last":
            return CHANNELS_LAST
        return None


@register(layers.AveragePooling1D, layers.AveragePooling2D, "AveragePool")
class AveragePoolingRule(PassThroughRule):
    """Averages of integer codes, rounded to codes."""

    def rounds(self, node: Node) -> bool:
        """True."""
        return True


@register("Pad")
class PadRule(PassThroughRule):
    """Padding with zeros, which every range holds."""

    def refusal(self, node: Node) -> str | None:
        """Other fill values or modes."""
        mode = getattr(node.operation, "mode", "constant")
        value = node.kwargs.get("constant_values") or 0
        return None if mode == "constant" and value == 0 else f"padding in mode {mode!r}"


@register(layers.UpSampling2D)
class UpSampling2DRule(PassThroughRule):
    """Exported as a resize: as repeats it becomes operations that some LiteRT kernels lack."""

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return node.operation.interpolation == "nearest"

    def rounds(self, node: Node) -> bool:
        """When it interpolates."""
        return node.operation.interpolation != "nearest"

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A nearest-neighbour resize by an integer factor, which repeats exactly."""
        height, width = (n * s for n, s in zip(inputs.shape[1:3], wrapper.layer.size, strict=True))
        return layers.Resizing(height, width, interpolation="nearest", name=wrapper.deployed_name)(
            inputs
        )


@register(layers.MaxPooling3D, layers.AveragePooling3D)
class Pooling3DRule(PassThroughRule):
    """Exported as two 2-D poolings: LiteRT has no 3-D one."""

    def refusal(self, node: Node) -> str | None:
        """An average over padded borders does not factor."""
        if isinstance(node.layer, layers.AveragePooling3D) and node.layer.padding != "valid":
            return "LiteRT has no 3-D average pooling, and with padding it does not factor into 2-D"
        return super().refusal(node)

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return self.refusal(node) is None

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Pool every frame in the plane, then along the depth."""
        layer = wrapper.layer
        maximum = isinstance(layer, layers.MaxPooling3D)
        pooling = layers.MaxPooling2D if maximum else layers.AveragePooling2D
        depth, _, _, channels = inputs.shape[1:]
        frames = ops.reshape(inputs, (-1, *inputs.shape[2:]))
        frames = pooling(layer.pool_size[1:], layer.strides[1:], layer.padding)(frames)
        height, width = frames.shape[1:3]
        columns = ops.reshape(frames, (-1, depth, height * width, channels))
        columns = pooling((layer.pool_size[0], 1), (layer.strides[0], 1), layer.padding)(columns)
        return ops.reshape(columns, (-1, columns.shape[1], height, width, channels))

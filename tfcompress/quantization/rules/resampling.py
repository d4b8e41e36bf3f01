"""Layers that change how many places an image or a sequence has."""

from __future__ import annotations

import math
from typing import Any

from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.graph.axes import axes_of
from tfcompress.quantization.rules.refusals import CHANNELS_LAST, OPEN_SHAPE
from tfcompress.quantization.rules.registry import register
from tfcompress.quantization.rules.shapes import PassThroughRule


@register(layers.Resizing)
class ResizingRule(PassThroughRule):
    """Nearest and bilinear resizing are one operation each."""

    def refusal(self, node: Node) -> str | None:
        """Other interpolations and options, and integer images."""
        layer = node.operation
        if layer.data_format != "channels_last":
            return CHANNELS_LAST
        if layer.interpolation not in ("nearest", "bilinear"):
            return f"LiteRT has no {layer.interpolation} interpolation"
        for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
            if getattr(layer, option):
                return f"Resizing({option}=True) is no operation of LiteRT's"
        return None

    def rounds(self, node: Node) -> bool:
        """When it interpolates."""
        return bool(node.operation.interpolation != "nearest")


@register(layers.CenterCrop)
class CenterCropRule(PassThroughRule):
    """A slice of a larger image."""

    def refusal(self, node: Node) -> str | None:
        """Images that it would have to enlarge."""
        layer, shape = node.operation, node.inputs[0].shape
        if layer.data_format != "channels_last":
            return CHANNELS_LAST
        height, width = shape[-3], shape[-2]
        if height is None or width is None or height < layer.height or width < layer.width:
            return "the image is not known to be larger than the crop"
        return None


@register(layers.UpSampling1D)
class UpSampling1DRule(PassThroughRule):
    """Exported as a resize: as repeats it becomes operations that some LiteRT kernels lack."""

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return node.inputs[0].shape[1] is not None

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A nearest-neighbour resize of an image of width one."""
        steps, channels = inputs.shape[1:]
        longer = steps * wrapper.layer.size
        outputs = layers.Resizing(longer, 1, interpolation="nearest")(
            ops.reshape(inputs, (-1, steps, 1, channels))
        )
        return ops.reshape(outputs, (-1, longer, channels))


@register(layers.UpSampling3D)
class UpSampling3DRule(PassThroughRule):
    """Exported as a resize in the plane and one along the depth."""

    def refusal(self, node: Node) -> str | None:
        """Open shapes."""
        if node.operation.data_format != "channels_last":
            return CHANNELS_LAST
        return OPEN_SHAPE if None in node.inputs[0].shape[1:] else None

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return True

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Resize every frame, then the columns of frames."""
        depth, height, width, channels = inputs.shape[1:]
        deeper, higher, wider = (
            n * s for n, s in zip((depth, height, width), wrapper.layer.size, strict=True)
        )
        frames = ops.reshape(inputs, (-1, height, width, channels))
        frames = layers.Resizing(higher, wider, interpolation="nearest")(frames)
        columns = ops.reshape(frames, (-1, depth, higher * wider, channels))
        columns = layers.Resizing(deeper, higher * wider, interpolation="nearest")(columns)
        return ops.reshape(columns, (-1, deeper, higher, wider, channels))


@register(layers.AdaptiveMaxPooling1D, layers.AdaptiveMaxPooling2D)
@register(layers.AdaptiveAveragePooling1D, layers.AdaptiveAveragePooling2D)
class AdaptivePoolingRule(PassThroughRule):
    """A pooling with windows of one size, where the sizes divide."""

    def refusal(self, node: Node) -> str | None:
        """Windows of different sizes."""
        layer = node.operation
        if layer.data_format != "channels_last":
            return CHANNELS_LAST
        sizes = node.inputs[0].shape[1:-1]
        if None in sizes:
            return OPEN_SHAPE
        if any((n or 0) % result for n, result in zip(sizes, self._results(layer), strict=True)):
            return (
                f"output size {tuple(self._results(layer))} does not divide {sizes}, so that its "
                "windows differ in size"
            )
        return None

    def _results(self, layer: Any) -> list[int]:
        size = layer.output_size
        rank = 1 if "1D" in type(layer).__name__ else 2
        return [size] * rank if isinstance(size, int) else list(size)

    def rounds(self, node: Node) -> bool:
        """Averages do."""
        return "Average" in node.type_name

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return True

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The pooling."""
        layer = wrapper.layer
        results = self._results(layer)
        window = tuple(
            size // result for size, result in zip(inputs.shape[1:-1], results, strict=True)
        )
        if math.prod(window) == 1:
            return inputs
        average = "Average" in type(layer).__name__
        if len(results) == 1:
            pooling = layers.AveragePooling1D if average else layers.MaxPooling1D
            return pooling(window[0])(inputs)
        return (layers.AveragePooling2D if average else layers.MaxPooling2D)(window)(inputs)


@register("Flip")
class FlipRule(PassThroughRule):
    """Exported as a slice with negative steps: LiteRT's reversal needs a range of its own."""

    def wraps(self, node: Node) -> bool:
        """For the exported form."""
        return True

    def refusal(self, node: Node) -> str | None:
        """The batch."""
        reversed_axes = axes_of(node.operation.axis, len(node.inputs[0].shape))
        return "it reverses the batch" if 0 in reversed_axes else None

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The slice."""
        rank = len(inputs.shape)
        flipped = axes_of(wrapper.layer.operation.axis, rank)
        return inputs[tuple(slice(None, None, -1 if a in flipped else None) for a in range(rank))]

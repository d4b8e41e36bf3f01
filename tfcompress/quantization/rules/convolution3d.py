"""3-D convolutions, as 2-D convolutions over frames that stand side by side as channels."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.export.convolutions import PlaneConv2D
from tfcompress.graph import Node
from tfcompress.quantization.rules.linear import ConvolutionRule, LinearRule, deployed_activation
from tfcompress.quantization.rules.refusals import OPEN_SHAPE
from tfcompress.quantization.rules.registry import register


@register(layers.Conv3D)
class Conv3DRule(ConvolutionRule):
    """LiteRT has no integer CONV_3D, but every output frame is a 2-D convolution.

    Its channels are those of all input frames that the kernel covers. Nothing is added up outside
    of the one operation, so there are no partial sums to be rounded.
    """

    def refusal(self, node: Node) -> str | None:
        """Open shapes, besides what all convolutions refuse."""
        return super().refusal(node) or (OPEN_SHAPE if None in node.inputs[0].shape[1:] else None)

    def folds_batchnorm(self, node: Node) -> bool:
        """A reshape stands between."""
        return False

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Gather the frames under each tap of the kernel, and convolve in the plane."""
        layer = wrapper.layer
        convolution = PlaneConv2D(
            layer.filters,
            layer.kernel_size[1:],
            strides=layer.strides[1:],
            padding=layer.padding,
            dilation_rate=layer.dilation_rate[1:],
            groups=layer.groups,
            use_bias=layer.use_bias,
            name=wrapper.deployed_name,
        )
        frames = self._frames(layer, inputs)
        depth = frames.shape[1]
        outputs = convolution(ops.reshape(frames, (-1, *frames.shape[2:])))
        kernel = wrapper.baked_kernels()[0]  # (depth, height, width, channels, filters)
        kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*layer.kernel_size[1:], -1, layer.filters)
        bias = [ops.convert_to_numpy(layer.bias)] if layer.use_bias else []
        convolution.set_weights([kernel, *bias])
        outputs = deployed_activation(wrapper, outputs)
        return ops.reshape(outputs, (-1, depth, *outputs.shape[1:]))

    def _frames(self, layer: Any, inputs: Any) -> Any:
        """Shape (batch, output depth, height, width, taps * channels)."""
        taps, stride, rate = layer.kernel_size[0], layer.strides[0], layer.dilation_rate[0]
        depth, height, width, channels = inputs.shape[1:]
        reach = (taps - 1) * rate + 1
        # One axis for a frame: some LiteRT kernels stop at four.
        flat = ops.reshape(inputs, (-1, depth, height * width * channels))
        if layer.padding == "same":
            results = -(-depth // stride)
            missing = max((results - 1) * stride + reach - depth, 0)
            flat = ops.pad(flat, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)))
            depth += missing
        results = (depth - reach) // stride + 1
        found = []
        for tap in range(taps):
            first = tap * rate
            tap_frames = flat[:, first : first + (results - 1) * stride + 1 : stride]
            shape = (-1, results * height * width * layer.groups, channels // layer.groups)
            found.append(ops.reshape(tap_frames, shape))
        # Channels of a group stay together, those of the taps side by side in it.
        joined = found[0] if taps == 1 else ops.concatenate(found, axis=-1)
        return ops.reshape(joined, (-1, results, height, width, taps * channels))


@register(layers.Conv3DTranspose)
class Conv3DTransposeRule(LinearRule):
    """Without an integer form."""

    def refusal(self, node: Node) -> str | None:
        """Always."""
        return "LiteRT has no integer 3-D transposed convolution; upsample and use a Conv3D"

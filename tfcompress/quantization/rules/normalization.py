"""Normalization by statistics of the sample: layer, group, root mean square and unit norm.

The obvious sequence (mean of squares, plus epsilon, `rsqrt`, product) fails in 8 bits as soon as
the samples' variances differ: one range for all variances leaves the small ones a code or two, and
their errors are errors of the whole sample. LiteRT's L2_NORMALIZATION squares and adds in 32 bits
inside one operation, so a layer normalization is `sqrt(n) * l2_normalize(x - mean(x))`. Its output
has steps of 1/128, too coarse for long vectors, which are normalized in two levels: in chunks, and
the vector of the chunks' norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.graph.axes import axes_of
from tfcompress.quantization.bias_grid import round_bias
from tfcompress.quantization.rules.batched_product import batched_product
from tfcompress.quantization.rules.channel_affine import channel_affine
from tfcompress.quantization.rules.composed import ComposedRule, Quantizers
from tfcompress.quantization.rules.decompositions import TANH_RANGE
from tfcompress.quantization.rules.refusals import OPEN_SHAPE
from tfcompress.quantization.rules.registry import InnerRanges, register

# The longest vector whose values, of the size of 1 / sqrt(n), still have 16 codes of 1/128.
LONGEST = 64

# Below the square of a code of any usual range, and therefore left out.
NEGLIGIBLE_EPSILON = 1e-5


def l2_normalized(x: Any) -> Any:
    """`x / norm(x)` over the last axis, in the form that converts to one operation.

    The smallest norm, 1e-3, lies below a code of any usual range: it bounds gradients at zero.
    """
    wide = ops.cast(x, "float32")  # squares of half-precision values overflow
    square = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    return ops.cast(wide * ops.rsqrt(ops.maximum(square, 1e-6)), x.dtype)


def chunk_size(size: int) -> int:
    """The divisor of a size from which both levels get vectors of about the same length."""
    divisors = [d for d in range(2, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: abs(math.log(d * d / size))) if divisors else 1


class UnitVector:
    """Normalizes rows of a length to norm one.

    Args:
        size: Length of a row.
        epsilon: Added to the mean of the squares, as if it were an element of the row.
        ranged: Whether the rows have a range of the composition's own, so that the element for
            epsilon can be one of them.
    """

    def __init__(self, size: int, epsilon: float = 0.0, ranged: bool = True) -> None:
        self.size = size
        self.extra = math.sqrt(size * epsilon) if epsilon > NEGLIGIBLE_EPSILON else 0.0
        self.two_levels = size > LONGEST or (self.extra > 0 and not ranged)

    @property
    def inner(self) -> InnerRanges:
        """The quantizers that it needs; none behind its last operation."""
        if not self.two_levels:
            return {}
        return {"direction": TANH_RANGE, "norms": None, "shares": TANH_RANGE}

    @property
    def fixed_range(self) -> tuple[float, float] | None:
        """The range of its last operation."""
        return None if self.two_levels else TANH_RANGE

    def lengthened(self, rows: Any) -> Any:
        """Rows of shape (rows, size), with the element for epsilon where it is one of them."""
        if self.two_levels or not self.extra:
            return rows
        return ops.pad(rows, ((0, 0), (0, 1)), constant_values=self.extra)

    def __call__(self, rows: Any, quantizer: Quantizers, source: str | None = None) -> Any:
        """Normalize rows, lengthened, not quantized at the end.

        Args:
            rows: Shape (rows, size).
            quantizer: Returns the inner quantizer of a name.
            source: Name of the quantizer of the rows. Defaults to None: the layer's input.
        """
        if not self.two_levels:
            return l2_normalized(rows)
        chunk = chunk_size(self.size)
        count = self.size // chunk
        chunks = ops.reshape(rows, (-1, count, chunk))
        direction = quantizer("direction")(l2_normalized(chunks))
        # The product with its own direction is the norm of a chunk, without any squares.
        norms = batched_product(
            ops.reshape(direction, (-1, 1, chunk)),
            ops.reshape(chunks, (-1, chunk, 1)),
            (quantizer.unit("direction"), quantizer.unit(source)),
            quantizer("norms"),
        )
        norms = ops.reshape(norms, (-1, count))
        if self.extra:
            norms = ops.pad(norms, ((0, 0), (0, 1)), constant_values=self.extra)
        shares = quantizer("shares")(l2_normalized(quantizer("norms")(norms)))
        if self.extra:
            shares = shares[:, :count]
        outputs = direction * ops.reshape(shares, (-1, count, 1))
        return ops.reshape(outputs, (-1, self.size))


def scaled_channels(
    rows: Any,
    gamma: Any,
    beta: Any,
    root: float,
    unit: Any = None,
) -> Any:
    """`rows * root * gamma + beta` over the last axis, exported as one operation.

    Args:
        rows: Tensor whose last axis is that of `gamma` and `beta`.
        gamma: Scale of every channel, or None.
        beta: Offset of every channel, or None.
        root: What makes the variance one.
        unit: What one code of `rows` is worth, to round the offset as LiteRT does. Defaults to
            None: it is not rounded.
    """
    if gamma is None and beta is None:
        return ops.multiply(rows, root)
    if isinstance(gamma, np.ndarray) or isinstance(beta, np.ndarray):
        scale = root if gamma is None else gamma * root
        return channel_affine(rows, scale, 0.0 if beta is None else beta)
    scale = root if gamma is None else ops.reshape(ops.cast(gamma, rows.dtype), (-1,)) * root
    rows = ops.multiply(rows, scale)
    if beta is None:
        return rows
    offset = ops.reshape(beta, (-1,))
    if unit is not None:
        # The factor of a channel is its only weight, and so has the largest code.
        factor = ops.stop_gradient(ops.abs(ops.cast(scale, "float32")))
        offset = round_bias(ops.cast(offset, "float32"), unit * factor / 127)
    return ops.add(rows, ops.cast(offset, rows.dtype))


class SampleNormalizationRule(ComposedRule):
    """What the normalizations by statistics of a sample have in common."""

    centers = False

    def axes(self, layer: Any, rank: int) -> list[int]:
        """The axes that a layer normalizes over, from 0, in order."""
        return sorted(axes_of(layer.axis, rank))

    def counted(self, axes: list[int], rank: int) -> Iterable[int]:
        """The axes whose sizes say how many values are normalized together."""
        return axes

    def size(self, layer: Any, shape: tuple[int | None, ...]) -> int:
        """The number of values that are normalized together."""
        return math.prod(shape[axis] or 0 for axis in self.axes(layer, len(shape)))

    def unit(self, layer: Any, shape: tuple[int | None, ...]) -> UnitVector:
        """What normalizes the rows."""
        return UnitVector(self.size(layer, shape), getattr(layer, "epsilon", 0.0), self.centers)

    def refusal(self, node: Node) -> str | None:
        """Open sizes of what is normalized together, and other axes than the last ones."""
        shape = node.inputs[0].shape
        axes = self.axes(node.operation, len(shape))
        if any(shape[axis] is None for axis in self.counted(axes, len(shape))):
            return OPEN_SHAPE
        if axes != list(range(len(shape) - len(axes), len(shape))) or axes[0] == 0:
            return f"axis {node.operation.axis} has no integer form; only the last axes have one"
        if self.size(node.operation, shape) < 2:
            return "it normalizes single values"
        return None

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Around the mean, in the normalization, and before the scale."""
        unit = self.unit(node.operation, node.inputs[0].shape)
        around: InnerRanges = {"mean": None, "centered": None} if self.centers else {}
        return {**around, **unit.inner, "normalized": unit.fixed_range}

    def normalized_rows(self, quantizer: Quantizers, rows: Any, unit: UnitVector) -> Any:
        """Rows of shape (rows, size) with norm one, quantized."""
        if not self.centers:
            return quantizer("normalized")(unit(rows, quantizer))
        mean = ops.mean(ops.cast(rows, "float32"), axis=-1, keepdims=True)
        mean = quantizer("mean")(ops.cast(mean, rows.dtype))
        rows = quantizer("centered")(unit.lengthened(rows - mean))
        outputs = quantizer("normalized")(unit(rows, quantizer, "centered"))
        return outputs if outputs.shape[-1] == unit.size else outputs[:, : unit.size]


@register(layers.LayerNormalization)
class LayerNormalizationRule(SampleNormalizationRule):
    """`sqrt(n) * l2_normalize(x - mean(x))`, scaled and shifted; Ba et al. 2016."""

    centers = True

    def refusal(self, node: Node) -> str | None:
        """The scaling that Keras itself calls incorrect."""
        if getattr(node.operation, "rms_scaling", False):
            return "rms_scaling is deprecated in Keras; use RMSNormalization"
        return super().refusal(node)

    def gain(self, layer: Any) -> tuple[Any, Any]:
        """Scale and offset of every value."""
        return layer.gamma, layer.beta

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Rows of all normalized axes, and back."""
        unit = self.unit(layer, inputs.shape)
        rows = ops.reshape(inputs, (-1, unit.size))
        rows = self.normalized_rows(quantizer, rows, unit)
        root, step = math.sqrt(unit.size), quantizer.bias_unit("normalized")
        outputs = scaled_channels(rows, *self.gain(layer), root, step)
        return ops.reshape(outputs, (-1, *ops.shape(inputs)[1:]))


@register(layers.RMSNormalization)
class RMSNormalizationRule(LayerNormalizationRule):
    """`sqrt(n) * l2_normalize(x) * scale`; Zhang and Sennrich 2019."""

    centers = False

    def gain(self, layer: Any) -> tuple[Any, Any]:
        """The scale."""
        return layer.scale, None


@register(layers.GroupNormalization)
class GroupNormalizationRule(SampleNormalizationRule):
    """A layer normalization of every group of channels; Wu and He 2018."""

    centers = True

    def axes(self, layer: Any, rank: int) -> list[int]:
        """The channels: its groups are normalized over all others as well."""
        return [layer.axis % rank]

    def counted(self, axes: list[int], rank: int) -> Iterable[int]:
        """All but the batch."""
        return range(1, rank)

    def size(self, layer: Any, shape: tuple[int | None, ...]) -> int:
        """All values of a group."""
        return math.prod(size or 0 for size in shape[1:]) // self.groups(layer, shape)

    def groups(self, layer: Any, shape: tuple[int | None, ...]) -> int:
        """The number of groups, -1 being one for each channel."""
        return layer.groups if layer.groups > 0 else int(shape[-1] or 1)

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The groups as rows, and back."""
        shape = inputs.shape
        channels, groups = shape[-1], self.groups(layer, shape)
        places = math.prod(shape[1:-1])
        unit = self.unit(layer, shape)
        x = ops.reshape(inputs, (-1, places, groups, channels // groups))
        if groups > 1:
            x = ops.transpose(x, (0, 2, 1, 3))
        rows = ops.reshape(x, (-1, unit.size))
        rows = self.normalized_rows(quantizer, rows, unit)
        if groups > 1:
            rows = ops.reshape(rows, (-1, groups, places, channels // groups))
            rows = ops.transpose(rows, (0, 2, 1, 3))
        rows = ops.reshape(rows, (-1, places, channels))
        root, step = math.sqrt(unit.size), quantizer.bias_unit("normalized")
        outputs = scaled_channels(rows, layer.gamma, layer.beta, root, step)
        return ops.reshape(outputs, (-1, *shape[1:]))


@register(layers.UnitNormalization)
class UnitNormalizationRule(SampleNormalizationRule):
    """LiteRT's L2_NORMALIZATION."""

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """That of the operation."""
        return self.unit(node.operation, node.inputs[0].shape).fixed_range

    def wraps(self, node: Node) -> bool:
        """For the form that converts."""
        return True

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Only in the normalization."""
        return self.unit(node.operation, node.inputs[0].shape).inner

    def unit(self, layer: Any, shape: tuple[int | None, ...]) -> UnitVector:
        """Without epsilon, which is vanishing in Keras."""
        return UnitVector(self.size(layer, shape))

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Rows of all normalized axes, and back."""
        unit = self.unit(layer, inputs.shape)
        rows = unit(ops.reshape(inputs, (-1, unit.size)), quantizer)
        return ops.reshape(rows, (-1, *ops.shape(inputs)[1:]))

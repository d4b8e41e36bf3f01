"""Attention layers: projections, scores, softmax and context, each with a range."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.graph import Node, Tensor, keras_internals
from tfcompress.graph.sequence_masks import is_masked
from tfcompress.quantization.rules.activations import TANH_RANGE, UNIT_RANGE
from tfcompress.quantization.rules.attention_masks import both, causal_mask, masked, window_mask
from tfcompress.quantization.rules.batched_product import batched_product
from tfcompress.quantization.rules.channel_affine import channel_affine
from tfcompress.quantization.rules.composed import BiasGrid, ComposedRule, Quantizers
from tfcompress.quantization.rules.contraction import Contraction, product
from tfcompress.quantization.rules.einsum import einsum_refusal
from tfcompress.quantization.rules.registry import InnerRanges, register


class AttentionRule(ComposedRule, ABC):
    """Common to all attention layers."""

    takes_named_inputs = True

    def refusal(self, node: Node) -> str | None:
        """Masks in float, and subclasses, which may compute something else."""
        if type(node.operation).__module__.partition(".")[0] != "keras":
            return f"{node.type_name} is a subclass that may compute something else than attention"
        mask = node.arguments.get("attention_mask")
        if isinstance(mask, Tensor) and mask.is_float:
            return f"its attention_mask is {mask.dtype}; give a mask of dtype bool or int32"
        return super().refusal(node)

    def quantizes_output(self, node: Node, index: int) -> bool:
        """The attention scores, if returned, have the range of the softmax."""
        return index == 1

    def weigh(
        self, quantizer: Quantizers, scores: Any, mask: Any, dropout: Callable[[Any], Any]
    ) -> tuple[Any, Any]:
        """The softmax of scores, after and before dropout."""
        if mask is not None:
            scores = masked(scores, mask, quantizer("scores"))
        weights = ops.softmax(quantizer("scores")(scores), axis=-1)
        weights = quantizer("weights")(weights)
        return dropout(weights), weights


@register(layers.MultiHeadAttention, layers.GroupQueryAttention)
class MultiHeadAttentionRule(AttentionRule):
    """Multi-head attention, also with shared keys and values, over one or more axes.

    The factor 1/sqrt(d) is folded into the query's kernel, whose codes stay the same. Query heads
    that share a key are rows of one product, so nothing is repeated.
    """

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Those of the projections."""
        return [
            (dense.kernel, Contraction.of(dense.equation, 0).channel_axes)
            for dense in keras_internals.attention_projections(layer).values()
        ]

    def refusal(self, node: Node) -> str | None:
        """Masks over several axes, besides what all attention layers refuse."""
        if reason := super().refusal(node):
            return reason
        arguments = node.arguments
        for dense in keras_internals.attention_projections(node.operation).values():
            if reason := einsum_refusal(dense, len(dense.equation.split(",")[0])):
                return reason
        given = [arguments[name] for name in arguments if name.endswith("mask")]
        flags = any(mask is not None and mask is not False for mask in given)
        flags |= any(is_masked(arguments[name]) for name in ("query", "value"))
        if flags and len(arguments["query"].shape) != 3:
            return "masks have an integer form for attention over one axis of a sequence only"
        return None

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One after every operation but the last."""
        ranges: InnerRanges = {name: None for name in ("query", "key", "value", "scores")}
        ranges |= {"weights": UNIT_RANGE, "context": None}
        if "gate" in keras_internals.attention_projections(node.operation):
            ranges |= {"gate_logits": None, "gate": UNIT_RANGE, "gated": None}
        return ranges

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Projections, scores, softmax, context and projection."""
        arguments = inspect.signature(layer.call).bind(inputs, *args, **kwargs).arguments
        value = arguments["value"]
        key = value if arguments.get("key") is None else arguments["key"]
        mask = self._mask(layer, arguments)
        dense = keras_internals.attention_projections(layer)
        width = dense["query"].kernel.shape[-1]
        heads = _Heads(layer, inputs, dense["key"].kernel.shape[-2])
        grid = quantizer.bias_grid()
        queries = _project(dense["query"], inputs, grid, quantizer("query"), 1 / math.sqrt(width))
        # Only the range of the first input is known.
        grids = [grid if x is inputs else None for x in (key, value)]
        keys = _project(dense["key"], key, grids[0], quantizer("key"))
        values = _project(dense["value"], value, grids[1], quantizer("value"))
        scores = heads.scores(heads.queries(queries), heads.keys(keys), quantizer)
        weights, scores = self.weigh(
            quantizer, scores, mask, keras_internals.attention_dropout(layer)
        )
        context = heads.context(weights, heads.values(values), quantizer)
        context = quantizer("context")(context)
        if "gate" in dense:
            logits = _project(dense["gate"], inputs, grid, quantizer("gate_logits"))
            gate = quantizer("gate")(ops.sigmoid(logits))
            context = quantizer("gated")(ops.multiply(context, gate))
        grid = quantizer.bias_grid("gated" if "gate" in dense else "context")
        outputs = _project(dense["output"], context, grid)
        if arguments.get("return_attention_scores"):
            return outputs, heads.returned(scores)
        return outputs

    def _mask(self, layer: keras.layers.Layer, arguments: dict[str, Any]) -> Any:
        """All masks in one, of shape (..., heads or 1, targets, sources), or None."""

        def along(name: str, axis: int) -> Any:
            mask = arguments.get(f"{name}_mask")
            if mask is None and arguments.get(name) is not None:
                mask = keras_internals.mask_of(arguments[name])
            return None if mask is None else ops.expand_dims(mask, axis)

        targets, sources = (ops.shape(arguments[name])[1] for name in ("query", "value"))
        causal = causal_mask(targets, sources) if arguments.get("use_causal_mask") else None
        window = keras_internals.sliding_window(layer)
        near = None if window is None else window_mask(targets, sources, window)
        mask = both(causal, near, along("query", -1), along("value", -2), along("key", -2))
        mask = both(mask, arguments.get("attention_mask"))
        while mask is not None and len(mask.shape) < 4:
            mask = ops.expand_dims(mask, -3)
        return mask


def _project(
    dense: keras.layers.EinsumDense,
    x: Any,
    grid: BiasGrid | None,
    finish: Any = None,
    factor: float | None = None,
) -> Any:
    """A projection, times a factor."""
    kernel, bias = dense.kernel, dense.bias
    if factor is not None:
        kernel = kernel * factor
        bias = None if bias is None else bias * factor
    contraction = Contraction.of(dense.equation, len(x.shape))
    return contraction(x, kernel, bias, dense.bias_axes or "", finish, grid)


class _Heads:
    """Brings projections of shape (batch, axes..., heads, width) into the form of matrices.

    All axes that are not attended over become one with the batch, those that are become rows, and
    the query heads that share a key become rows as well.

    Args:
        layer: The attention layer.
        query: Its query, for the shape.
        groups: Number of key heads.
    """

    def __init__(self, layer: keras.layers.Layer, query: Any, groups: int) -> None:
        rank = len(query.shape) + 1
        axes = getattr(layer, "attention_axes", None) or range(1, rank - 2)
        self.attended = [axis % (rank - 1) for axis in axes]
        self.others = [axis for axis in range(1, rank - 2) if axis not in self.attended]
        self.head, self.width = rank - 2, rank - 1
        self.groups = groups
        # Sizes, of which those of open lengths are scalar tensors in training.
        self.shape: tuple[Any, ...] = ops.shape(query)

    def queries(self, x: Any) -> Any:
        """Shape (batch, groups, heads in a group * targets, width)."""
        self.heads = x.shape[self.head]
        self.targets = [ops.shape(x)[axis] for axis in self.attended]
        x = ops.transpose(x, [0, *self.others, self.head, *self.attended, self.width])
        return ops.reshape(x, (-1, self.groups, self._rows, x.shape[-1]))

    @property
    def _rows(self) -> Any:
        return self.heads // self.groups * math.prod(self.targets)

    def keys(self, x: Any) -> Any:
        """Shape (batch, groups, width, sources)."""
        self.sources = [ops.shape(x)[axis] for axis in self.attended]
        width = x.shape[-1]
        x = ops.transpose(x, [0, *self.others, self.head, self.width, *self.attended])
        return ops.reshape(x, (-1, self.groups, width, math.prod(self.sources)))

    def values(self, x: Any) -> Any:
        """Shape (batch, groups, sources, width)."""
        width = x.shape[-1]
        x = ops.transpose(x, [0, *self.others, self.head, *self.attended, self.width])
        return ops.reshape(x, (-1, self.groups, math.prod(self.sources), width))

    def scores(self, queries: Any, keys: Any, quantizer: Quantizers) -> Any:
        """Shape (batch, heads, targets, sources)."""
        shape = (-1, self.heads, math.prod(self.targets), math.prod(self.sources))
        units = quantizer.unit("query"), quantizer.unit("key")
        return ops.reshape(batched_product(queries, keys, units, quantizer("scores")), shape)

    def context(self, weights: Any, values: Any, quantizer: Quantizers) -> Any:
        """Shape (batch, axes..., heads, width)."""
        weights = ops.reshape(weights, (-1, self.groups, self._rows, math.prod(self.sources)))
        units = quantizer.unit("weights"), quantizer.unit("value")
        x = batched_product(weights, values, units, quantizer("context"))
        others = [self.shape[axis] for axis in self.others]
        x = ops.reshape(x, (-1, *others, self.heads, *self.targets, x.shape[-1]))
        order = [0, *self.others, self.head, *self.attended, self.width]
        return ops.transpose(x, [order.index(axis) for axis in range(len(order))])

    def returned(self, weights: Any) -> Any:
        """Shape (batch, other axes..., heads, target axes..., source axes...)."""
        others = [self.shape[axis] for axis in self.others]
        return ops.reshape(weights, (-1, *others, self.heads, *self.targets, *self.sources))


class ScoredAttentionRule(AttentionRule):
    """Attention of a list `[query, value]` or `[query, value, key]` without projections."""

    def refusal(self, node: Node) -> str | None:
        """Several batch axes, besides what all attention layers refuse."""
        if any(len(tensor.shape) != 3 for tensor in node.inputs):
            return "only inputs of shape (batch, steps, features) have an integer form"
        return super().refusal(node)

    @abstractmethod
    def scores(self, layer: keras.layers.Layer, quantizer: Quantizers, query: Any, key: Any) -> Any:
        """Shape (batch..., targets, sources)."""

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Scores, softmax and context."""
        arguments = inspect.signature(layer.call).bind(inputs, *args, **kwargs).arguments
        query, value, key = inputs if len(inputs) == 3 else (*inputs, inputs[1])
        masks = arguments.get("mask") or [keras_internals.mask_of(x) for x in inputs]
        targets, sources = ops.shape(query)[-2], ops.shape(key)[-2]
        mask = causal_mask(targets, sources) if arguments.get("use_causal_mask") else None
        mask = both(mask, None if masks[1] is None else ops.expand_dims(masks[1], -2))

        def dropout(weights: Any) -> Any:
            if layer.dropout == 0 or not arguments.get("training"):
                return weights
            return keras.random.dropout(weights, layer.dropout, seed=layer.seed_generator)

        scores = self.scores(layer, quantizer, query, key)
        weights, returned = self.weigh(quantizer, scores, mask, dropout)
        context = ops.matmul(weights, value)
        if masks[0] is not None:
            context = ops.where(ops.expand_dims(masks[0], -1), context, 0.0)
        return (context, returned) if arguments.get("return_attention_scores") else context


@register(layers.Attention)
class DotAttentionRule(ScoredAttentionRule):
    """`Attention`, by products or by sums of query and key."""

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One after every operation but the last."""
        layer = node.operation
        ranges: InnerRanges = {"scores": None, "weights": UNIT_RANGE}
        if layer.score_mode == "concat":
            ranges |= {"sum": None, "tanh": TANH_RANGE}
        if layer.use_scale:
            ranges["scaled" if layer.score_mode == "concat" else "products"] = None
        return ranges

    def scores(self, layer: keras.layers.Layer, quantizer: Quantizers, query: Any, key: Any) -> Any:
        """Products, or sums of hyperbolic tangents, with learned factors."""
        if layer.score_mode == "concat":
            total = _pairwise_sum(query, key, quantizer)
            if layer.use_scale:
                total = quantizer("scaled")(_times(total, layer.scale, quantizer("scaled")))
            return _weighted_tanh(total, layer.concat_score_weight, quantizer)
        # Only the range of the first input is known.
        unit = quantizer.unit()
        units = unit, unit if key is query else None
        target = quantizer("products" if layer.use_scale else "scores")
        products = batched_product(query, ops.swapaxes(key, -2, -1), units, target)
        if layer.use_scale:
            products = _times(quantizer("products")(products), layer.scale, quantizer("products"))
        return products


@register(layers.AdditiveAttention)
class AdditiveAttentionRule(ScoredAttentionRule):
    """`AdditiveAttention`, whose factors are the kernel of a fully connected operation."""

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The factors, which have one scale as they make one output channel."""
        return [(layer.scale, ())] if layer.use_scale else []

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """One after every operation but the last."""
        return {"sum": None, "tanh": TANH_RANGE, "scores": None, "weights": UNIT_RANGE}

    def scores(self, layer: keras.layers.Layer, quantizer: Quantizers, query: Any, key: Any) -> Any:
        """Weighted sums of hyperbolic tangents."""
        factors = layer.scale if layer.use_scale else np.ones((), "float32")
        return _weighted_tanh(_pairwise_sum(query, key, quantizer), factors, quantizer)


def _times(x: Any, factor: Any, quantizer: Any) -> Any:
    """A product with a scalar, named after a quantizer."""
    if isinstance(factor, (np.ndarray, np.generic)):
        # A convolution, because a multiplication by 1 would be optimized away.
        return channel_affine(x, factor, 0.0, f"{quantizer.name}_factor")
    return ops.multiply(x, factor)


def _pairwise_sum(query: Any, key: Any, quantizer: Quantizers) -> Any:
    """Shape (batch..., targets, sources, features)."""
    total = ops.add(ops.expand_dims(query, -2), ops.expand_dims(key, -3))
    return quantizer("sum")(total)


def _weighted_tanh(total: Any, factors: Any, quantizer: Quantizers) -> Any:
    """The sum over features of `factors * tanh(total)`, as a product with a matrix of one column.

    Args:
        total: Shape (batch..., targets, sources, features).
        factors: Shape (features,), or () for one factor in all.
        quantizer: Returns the inner quantizer of a name.
    """
    values = quantizer("tanh")(ops.tanh(total))
    features = values.shape[-1]
    arrays = np if isinstance(factors, (np.ndarray, np.generic)) else ops
    column = arrays.reshape(arrays.broadcast_to(factors, (features,)), (features, 1))
    sums = product(ops.reshape(values, (-1, features)), column)
    return ops.reshape(sums, (-1, *ops.shape(values)[1:-1]))

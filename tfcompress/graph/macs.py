"""How many multiplications a model does for one sample, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from absl import logging
from keras import layers

from tfcompress.graph import keras_internals
from tfcompress.graph.einsum import axis_names, dense_axis_names
from tfcompress.graph.flat import Graph, Node, Tensor, flatten
from tfcompress.graph.registry import Registry

# An axis of a variable or of a tensor of the graph: (the variable or tensor, number of the axis).
Axis = tuple[Any, int]
# A loop over all these axes, with one multiplication in its body.
Product = tuple[Axis, ...]
Counter = Callable[[Node, layers.Layer], list[Product]]

_COUNTERS: Registry[Counter] = Registry()


def count_macs(model: keras.Model | Graph) -> dict[str, int]:
    """Count the multiply-accumulate operations of every layer of a model, for one sample.

    Counted are convolutions and products of matrices, as is usual; biases, normalization and
    element-wise operations are not. An axis of no fixed size, such as a number of steps or pixels,
    counts as 1. Zeros count too: no kernel of LiteRT skips them.

    Args:
        model: A built Keras model, or the `Graph` of one.

    Returns:
        The operations by path of the layer (`"encoder/conv1"` within a nested model), in the order
        in which the layers run, for those that do any. All calls of a shared layer are added up.

    Raises:
        ValueError: If the model was never built.
        UntraceableModelError: If it is a subclassed model whose `call` cannot be traced.

    Example:

    ```python
    sum(count_macs(model).values())
    ```
    """
    counts: dict[str, int] = {}
    for node, count in node_macs(model if isinstance(model, Graph) else flatten(model)).items():
        if count:
            path = node.name.split("@")[0]
            counts[path] = counts.get(path, 0) + count
    return counts


def node_macs(graph: Graph) -> dict[Node, int]:
    """The multiply-accumulate operations of every node of a graph, for one sample."""
    rows = rows_of(graph)
    return {
        node: rows[node] * sum(math.prod(map(axis_size, p)) for p in products_of(node))
        for node in graph.nodes
    }


def axis_size(axis: Axis) -> int:
    """The size of an axis; 1 where it is not fixed."""
    source, index = axis
    return source.shape[index] or 1


def rows_of(graph: Graph) -> dict[Node, int]:
    """How many rows of a node's first axis belong to one sample.

    More than 1 where a reshape makes steps or patches a part of the batch, as in a
    `TimeDistributed` layer.
    """
    known: dict[Tensor, int] = {}
    rows: dict[Node, int] = {}
    for node in graph.nodes:
        count = max((known.get(tensor, 1) for tensor in node.inputs), default=1)
        rows[node] = count
        shapes = [tensor.shape[1:] for tensor in (*node.inputs, *node.outputs)]
        if node.type_name == "Reshape" and not any(None in shape for shape in shapes):
            before, after = (math.prod(size or 1 for size in shape) for shape in shapes)
            count = max(1, count * before // max(1, after))
        known.update(dict.fromkeys(node.outputs, count))
    return rows


def products_of(node: Node) -> list[Product]:
    """The products that a node computes for one sample, each as the axes that it loops over."""
    operation = node.operation
    while isinstance(operation, layers.Wrapper) and not _COUNTERS.find(operation):
        operation = operation.layer
    if not isinstance(operation, layers.Layer):
        return _operation_products(node)
    counter = _COUNTERS.find(operation)
    if counter is not None:
        return counter(node, operation)
    if any(len(weight.shape) > 1 for weight in operation.weights):
        logging.warning(
            "The operations of '%s' are not counted: it is not known how a %s uses its weights. "
            "Register it with `tfcompress.graph.macs.register_products`.",
            node.name,
            type(operation).__name__,
        )
    return []


def register_products(*kinds: type) -> Callable[[Counter], Counter]:
    """Register how the products of layer classes are counted; subclasses are covered too.

    The function is given the node and the layer, which may be inside a wrapper, and returns the
    products: each a tuple of axes `(variable or tensor, number)` whose sizes are multiplied.

    Args:
        *kinds: Layer classes.

    Returns:
        A decorator of the function.

    Example:

    ```python
    @register_products(MyDense)
    def my_dense(node, layer):
        return [(*axes(node.inputs[0], 1, -1), *axes(layer.w))]
    ```
    """

    def decorate(counter: Counter) -> Counter:
        _COUNTERS.add(counter, *kinds)
        return counter

    return decorate


def axes(source: Any, first: int = 0, stop: int | None = None) -> Iterator[Axis]:
    """The axes of a variable or tensor from `first` up to, without, `stop`."""
    for index in range(len(source.shape))[first:stop]:
        yield source, index


def _places(tensor: Tensor, layer: layers.Layer) -> tuple[Axis, ...]:
    """The spatial axes of a tensor."""
    first = 2 if layer.data_format == "channels_first" else 1
    return tuple(axes(tensor, first, first + layer.rank))


@register_products(layers.Dense)
def _dense(node: Node, layer: layers.Layer) -> list[Product]:
    return [(*axes(node.inputs[0], 1, -1), *axes(layer.kernel))]


@register_products(layers.Embedding)
def _embedding(node: Node, layer: layers.Layer) -> list[Product]:
    # A `ReversibleEmbedding` multiplies in one of its two directions.
    if not node.kwargs.get("reverse", len(node.args) > 1 and node.args[1]):
        return []
    return [(*axes(node.inputs[0], 1), (node.outputs[0], -1))]


@register_products(layers.EinsumDense)
def _einsum_dense(node: Node, layer: layers.Layer) -> list[Product]:
    given = node.inputs[0]
    source, kernel, _ = dense_axis_names(layer.equation, len(given.shape))
    free = [(given, i) for i, name in enumerate(source) if i and name not in kernel]
    return [(*free, *axes(layer.kernel))]


@register_products(layers.Conv1D, layers.Conv2D, layers.Conv3D)
@register_products(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _convolution(node: Node, layer: layers.Layer) -> list[Product]:
    return [(*_places(node.outputs[0], layer), *axes(layer.kernel))]


@register_products(
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
)
def _elementwise(node: Node, layer: layers.Layer) -> list[Product]:
    return []


@register_products(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed(node: Node, layer: layers.Layer) -> list[Product]:
    return [(*_places(node.inputs[0], layer), *axes(layer.kernel))]


@register_products(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(node: Node, layer: layers.Layer) -> list[Product]:
    places = _places(node.outputs[0], layer)
    return [(*places, *axes(kernel)) for kernel in (layer.depthwise_kernel, layer.pointwise_kernel)]


@register_products(layers.RNN)
def _recurrent(node: Node, layer: layers.Layer) -> list[Product]:
    cells = getattr(layer.cell, "cells", [layer.cell])
    steps = (node.inputs[0], 1)
    return [
        (steps, *axes(kernel)) for cell in cells for kernel in (cell.kernel, cell.recurrent_kernel)
    ]


@register_products(layers.Bidirectional)
def _bidirectional(node: Node, layer: layers.Layer) -> list[Product]:
    return [
        product
        for direction in (layer.forward_layer, layer.backward_layer)
        for product in _recurrent(node, direction)
    ]


@register_products(keras_internals.ConvLSTM)
def _convolutional_recurrent(node: Node, layer: layers.Layer) -> list[Product]:
    cell = layer.cell
    first = len(node.outputs[0].shape) - cell.rank - (cell.data_format == "channels_last")
    places = list(axes(node.outputs[0], first, first + cell.rank))
    steps = (node.inputs[0], 1)
    return [(steps, *places, *axes(kernel)) for kernel in (cell.kernel, cell.recurrent_kernel)]


@register_products(layers.MultiHeadAttention, layers.GroupQueryAttention)
def _attention(node: Node, layer: layers.Layer) -> list[Product]:
    projections = keras_internals.attention_projections(layer)
    query, value = node.inputs[0], named_input(node, "value", 1)
    key = named_input(node, "key", 2) or value
    read = {"query": query, "gate": query, "output": query, "key": key, "value": value}
    products: list[Product] = [
        (*axes(read[part], 1, -1), *axes(dense.kernel)) for part, dense in projections.items()
    ]
    # Scores, and their product with the values: heads and sizes are those of the projections.
    attended = getattr(layer, "_attention_axes", (1,))
    pairs = [*axes(query, 1, -1), *((key, axis) for axis in attended)]
    products.append((*pairs, *axes(projections["query"].kernel, 1)))
    products.append((*pairs, *axes(projections["output"].kernel, 0, 2)))
    return products


def named_input(node: Node, name: str, position: int) -> Tensor | None:
    """The tensor that a node was given under a name or at a position; None if it was not."""
    given = node.args[position] if len(node.args) > position else node.kwargs.get(name)
    return given if isinstance(given, Tensor) else None


@register_products(layers.Attention)
def _dot_attention(node: Node, layer: layers.Layer) -> list[Product]:
    query, value = node.inputs[:2]
    scores: Product = (*axes(query, 1), (value, 1))
    additive = isinstance(layer, layers.AdditiveAttention)
    return [*([] if additive else [scores]), ((query, 1), *axes(value, 1))]


@register_products(layers.Dot)
def _dot(node: Node, layer: layers.Layer) -> list[Product]:
    first, second = node.inputs
    pair = (layer.axes, layer.axes) if isinstance(layer.axes, int) else layer.axes
    contracted = pair[1] % len(second.shape)
    return [(*axes(first, 1), *(axis for axis in axes(second, 1) if axis[1] != contracted))]


def _operation_products(node: Node) -> list[Product]:
    operands = node.inputs
    if node.type_name == "Matmul" and len(operands) == 2:
        first, second = operands
        wide = max(operands, key=lambda tensor: len(tensor.shape))
        columns = [(second, len(second.shape) - 1)] if len(second.shape) > 1 else []
        return [(*axes(wide, 1, -2), *list(axes(first, 1))[-2:], *columns)]
    if node.type_name == "Einsum":
        terms = node.operation.subscripts.replace(" ", "").split("->")[0].split(",")
        return [_einsum_axes(terms, operands)] if len(terms) == len(operands) > 1 else []
    return []


def _einsum_axes(terms: Sequence[str], operands: Sequence[Tensor]) -> Product:
    seen: dict[str, Axis] = {}
    for term, operand in zip(terms, operands, strict=True):
        for index, name in enumerate(axis_names(term, len(operand.shape))):
            seen.setdefault(name, (operand, index))
    return tuple(axis for axis in seen.values() if axis[1] > 0)

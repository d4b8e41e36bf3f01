"""Pairs of layers between which a channel may be scaled or shifted unnoticed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from tfcompress.graph import Graph, Node, Tensor
from tfcompress.quantization.post_training.linear_layer import LinearLayer
from tfcompress.quantization.post_training.lockstep import GraphValues
from tfcompress.quantization.rules.activations import activation_name
from tfcompress.quantization.rules.operation_layer import operation_of

# What treats every channel alike and keeps its factor.
_PASSING = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.Flatten,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
)
_PADDING = (layers.ZeroPadding1D, layers.ZeroPadding2D)


@dataclass(frozen=True, eq=False)
class ChannelPair:
    """Two layers with nothing between but what a factor on a channel passes through.

    Attributes:
        name: Names of both layers.
        first: The layer that makes the channels.
        second: The only layer that reads them.
        limit: What the activation between cuts off at, 6 for ReLU6; infinity for none.
        shifts: Whether a constant passes too, where the channel is positive.
        tensor: The channels behind the activation.
    """

    name: str
    first: LinearLayer
    second: LinearLayer
    limit: float
    shifts: bool
    tensor: Tensor


def channel_pairs(graph: Graph) -> list[ChannelPair]:
    """Find all pairs of a graph.

    Args:
        graph: The graph of a float model.

    Returns:
        The pairs in the order of the computation. Layers that are called more than once, and
        channels that are read twice, as by a residual addition, are in none.
    """
    calls = Counter(id(node.operation) for node in graph.nodes)
    linear = {
        node: found
        for node in graph.nodes
        if calls[id(node.operation)] == 1 and (found := LinearLayer.of(node)) is not None
    }
    pairs = (_pair(graph, node, linear) for node in linear)
    return [pair for pair in pairs if pair is not None]


def channel_extremes(
    model: keras.Model, samples: Mapping[str, np.ndarray]
) -> list[tuple[ChannelPair, np.ndarray, np.ndarray]]:
    """Find all pairs of a model, with what their channels show on samples.

    Args:
        model: A float model.
        samples: Arrays of shape (n, ...) by input name.

    Returns:
        Each pair with the smallest and the largest value of its channels behind the activation, of
        shape (channels,).
    """
    values = GraphValues(model, samples)
    pairs = {pair.tensor: pair for pair in channel_pairs(values.graph)}
    found = []
    for node in values.graph.nodes:
        values.run(node)
        pair = pairs.get(node.outputs[0])
        if pair is not None:
            batches = [keras.ops.convert_to_numpy(batch) for batch in values.of(pair.tensor)]
            axes = tuple(range(batches[0].ndim - 1))
            low = np.min([batch.min(axis=axes) for batch in batches], axis=0)
            high = np.max([batch.max(axis=axes) for batch in batches], axis=0)
            found.append((pair, low, high))
    return found


def _pair(graph: Graph, node: Node, linear: dict[Node, LinearLayer]) -> ChannelPair | None:
    first = linear[node]
    limit = _limit(first.layer.activation)
    tensor, channels, shifts = node.outputs[0], node.outputs[0], True
    reader = graph.only_consumer(tensor)
    while limit is not None and reader is not None and len(reader.outputs) == 1:
        if reader in linear:
            second = linear[reader]
            # A group's filters see only their own channels, of which the kernel says nothing.
            if second.groups > 1:
                return None
            name = f"{node.name} → {reader.name}"
            return ChannelPair(name, first, second, limit, shifts, channels)
        operation = operation_of(reader.operation)
        if isinstance(operation, _PADDING):
            shifts = False
        elif not isinstance(operation, _PASSING):
            cut = _limit(operation)
            if cut is None or channels is not tensor:
                return None
            limit, channels = min(limit, cut), reader.outputs[0]
        if isinstance(operation, layers.Flatten) and None in tensor.shape[1:]:
            return None
        tensor = reader.outputs[0]
        reader = graph.only_consumer(tensor)
    return None


def _limit(function: object) -> float | None:
    """Where a function cuts off that a positive factor passes through, or None for any other."""
    if isinstance(function, layers.Activation):
        function = function.activation
    if isinstance(function, layers.LeakyReLU):
        return math.inf
    if isinstance(function, layers.ReLU):
        if function.threshold:
            return None
        return math.inf if function.max_value is None else float(function.max_value)
    name = activation_name(function)
    known = getattr(keras.activations, name, None)
    if function is not None and function is not known and not isinstance(function, keras.Operation):
        return None
    return {"linear": math.inf, "relu": math.inf, "relu6": 6.0}.get(name)

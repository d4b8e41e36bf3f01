"""Batch normalizations as part of the layers before them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.graph import Graph, Node, flatten
from tfcompress.graph.rebuild import LayerCopies, rebuild
from tfcompress.graph.selection import matches
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.post_training.linear_layer import LinearLayer
from tfcompress.quantization.rules import rule_of
from tfcompress.quantization.rules.channel_affine import BatchNormalizationRule


def fold_batchnorms(model: keras.Model, keep: Any = None) -> keras.Model:
    """Copy a model in float32 with its batch normalizations folded into the layers before them.

    Post-training algorithms look at kernels and biases as the integer kernels will see them, which
    is behind the folding. Layers that could have a bias get one, since algorithms put what they
    correct there.

    Args:
        model: A built Keras model. It stays as it is.
        keep: Patterns of batch normalizations that stay layers of their own. Defaults to None.

    Returns:
        A flat Functional model that predicts what `model` predicts.

    Raises:
        ValueError: If `model` is not built or cannot be traced.

    Reference: Jacob et al. 2018, section 3.2, equation 14.
    """
    graph = flatten(model)
    copies = LayerCopies(graph, dtype="float32")
    folded = _folded(graph, keep)
    owners = {norm.inputs[0].producer: norm for norm in folded}
    linear = {node: found for node in graph.nodes if (found := LinearLayer.of(node)) is not None}
    made: dict[int, keras.layers.Layer] = {}

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node in folded:
            return args[0] if args else next(iter(kwargs.values()))
        if node not in linear:
            return copies.copy(node)(*args, **kwargs)
        if id(node.layer) not in made:
            made[id(node.layer)] = _with_bias(node.layer, copies.name(node))
        return made[id(node.layer)](*args, **kwargs)

    copy = rebuild(graph, call)
    copies.copy_weights()
    for node, original in linear.items():
        _assign(original, made[id(node.layer)], owners.get(node))
    return copy


def _folded(graph: Graph, keep: Any) -> set[Node]:
    found = set()
    for norm in Placement(graph).folded:
        producer = norm.inputs[0].producer
        if producer is None or LinearLayer.of(producer) is None:
            continue
        calls = sum(node.operation is producer.operation for node in graph.nodes)
        if calls == 1 and not (keep and matches(norm.name, norm.layer, keep)):
            found.add(norm)
    return found


def _with_bias(layer: Any, name: str) -> keras.layers.Layer:
    config = {**layer.get_config(), "name": name, "dtype": "float32", "use_bias": True}
    copy: keras.layers.Layer = type(layer).from_config(config)
    return copy


def _assign(original: LinearLayer, copy: Any, norm: Node | None) -> None:
    kernel, bias = original.kernel, original.bias
    if bias is None:
        bias = ops.convert_to_numpy(ops.zeros(copy.bias.shape))
    rule = None if norm is None else rule_of(norm.operation)
    if norm is not None and norm.layer is not None and isinstance(rule, BatchNormalizationRule):
        affine = rule.scale_and_offset(norm.layer)
        scale, offset = (ops.convert_to_numpy(part) for part in affine)
        kernel, bias = original.scaled_outputs(scale), bias * scale + offset
    copy.trainable = original.layer.trainable
    copy.kernel.assign(kernel)
    copy.bias.assign(bias)

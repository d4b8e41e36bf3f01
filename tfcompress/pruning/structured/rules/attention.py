"""Multi-head attention: heads, and what they compare and carry."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph import Node, Tensor, keras_internals
from tfcompress.graph.macs import named_input
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules.registry import Rule, describe, register


class ProjectedAttention(Rule):
    """What both attention layers of Keras have in common: their projections."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Bind what is read, made inside, and made for the output."""
        layer = node.operation
        query, value = node.inputs[0], named_input(node, "value", 1)
        key = named_input(node, "key", 2) or value
        read: dict[str, Tensor | None] = {
            "query": query,
            "gate": query,
            "key": key,
            "value": value,
        }
        projections = keras_internals.attention_projections(layer)
        for tensor in node.inputs:
            allowed = (-1,) if tensor in (query, key, value) else ()
            coupling.pin_others(tensor, allowed, f"{describe(node)} attends along them")
        for part, source in read.items():
            if part in projections and source is not None:
                coupling.read(node, projections[part].kernel, 0, source, -1)
        heads = self.inside(node, coupling, projections)
        kernel, bias = projections["output"].kernel, projections["output"].bias
        output = node.outputs[0]
        axes: list[Any] = [None] * len(output.shape)
        if len(kernel.shape) == 3:
            made = coupling.fresh(node, kernel.shape[-1])
            coupling.bind(node, kernel, 2, made)
            coupling.bind(node, bias, 0, made)
            axes[-1] = made
        flows = [Flow(axes)]
        for scores in node.outputs[1:]:
            flows.append(Flow([None, heads, *[None] * (len(scores.shape) - 2)], False))
        return flows

    @abstractmethod
    def inside(self, node: Node, coupling: Coupling, projections: dict[str, Any]) -> np.ndarray:
        """Bind heads and their sizes; return the labels of the (query) heads."""


@register(layers.MultiHeadAttention)
class MultiHeadAttentionRule(ProjectedAttention):
    """Whole heads can go, and of all heads the same part of their keys or values."""

    def inside(self, node: Node, coupling: Coupling, projections: dict[str, Any]) -> np.ndarray:
        """Kernels are `(in, heads, size)` and `(heads, size, out)`."""
        layer = node.operation
        heads = coupling.fresh(node, layer.num_heads, "heads")
        keys = coupling.fresh(node, layer.key_dim, "key size")
        values = coupling.fresh(node, layer.value_dim, "value size")
        sizes = {"query": keys, "key": keys, "value": values, "gate": values}
        for part, size in sizes.items():
            if part in projections:
                coupling.bind(node, projections[part].kernel, 1, heads)
                coupling.bind(node, projections[part].kernel, 2, size)
                coupling.bind(node, projections[part].bias, 0, heads)
                coupling.bind(node, projections[part].bias, 1, size)
        coupling.bind(node, projections["output"].kernel, 0, heads)
        coupling.bind(node, projections["output"].kernel, 1, values)
        return heads

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """Heads, their sizes, and the width of the output where it is not the query's any more."""
        layer = node.operation
        projections = keras_internals.attention_projections(layer)
        query, output = projections["query"].kernel, projections["output"].kernel
        config: dict[str, Any] = {
            "num_heads": kept.weight(query, 1),
            "key_dim": kept.weight(query, 2),
            "value_dim": kept.weight(output, 1),
        }
        if len(output.shape) == 3:
            config["output_shape"] = (kept.weight(output, 2),)
        return config

    def factors(self, node: Node, kept: Kept) -> dict[int, float]:
        """The layer divides by the root of the key size, which the query makes up for."""
        query = keras_internals.attention_projections(node.operation)["query"]
        factor = np.sqrt(kept.weight(query.kernel, 2) / query.kernel.shape[2])
        variables = [v for v in (query.kernel, query.bias) if v is not None]
        return {} if factor == 1 else {id(variable): float(factor) for variable in variables}


@register(layers.GroupQueryAttention)
class GroupQueryAttentionRule(ProjectedAttention):
    """Key and value heads go with the query heads that share them; the size of heads stays."""

    def inside(self, node: Node, coupling: Coupling, projections: dict[str, Any]) -> np.ndarray:
        """Query heads are laid out in blocks, one for each key and value head."""
        layer = node.operation
        heads = coupling.fresh(node, layer.num_key_value_heads, "heads")
        queries = np.repeat(heads, layer.num_query_heads // layer.num_key_value_heads)
        for part, labels in (
            ("query", queries),
            ("gate", queries),
            ("key", heads),
            ("value", heads),
        ):
            if part in projections:
                coupling.bind(node, projections[part].kernel, 1, labels)
                coupling.bind(node, projections[part].bias, 0, labels)
        coupling.bind(node, projections["output"].kernel, 0, queries)
        # The width of the output is always that of the query.
        output = projections["output"]
        made = coupling.flow(node.inputs[0]).axes[-1]
        coupling.bind(node, output.kernel, 2, made)
        coupling.bind(node, output.bias, 0, made)
        return queries

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The heads."""
        projections = keras_internals.attention_projections(node.operation)
        return {
            "num_query_heads": kept.weight(projections["query"].kernel, 1),
            "num_key_value_heads": kept.weight(projections["key"].kernel, 1),
        }

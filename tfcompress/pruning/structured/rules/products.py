"""Products of two computed tensors."""

from __future__ import annotations

from collections.abc import Sequence

from keras import layers

from tfcompress.graph import Node
from tfcompress.graph.einsum import axis_names
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.registry import Rule, describe, pinned, register


def multiplied(
    node: Node, coupling: Coupling, terms: Sequence[Sequence[str]], target: Sequence[str]
) -> list[Flow]:
    """Couple an Einstein summation of the node's inputs.

    Args:
        node: The node.
        coupling: The channels.
        terms: Names of the axes of each input.
        target: Names of the axes of the output.
    """
    flows = [coupling.flow(tensor) for tensor in node.inputs]
    along: dict[str, Labels] = {}
    zero = False
    for flow, tensor, term in zip(flows, node.inputs, terms, strict=True):
        zero |= flow.zero and bool(flow.labelled)
        for axis, name in enumerate(term):
            labels = flow.axes[axis]
            if name not in along:
                along[name] = labels
            elif tensor.shape[axis] != 1:
                reason = f"{describe(node)} joins them to what has no channels"
                coupling.tie(along[name], labels, reason)
                along[name] = labels if along[name] is None else along[name]
    kept_zero = all(flow.zero for flow in flows if flow.labelled)
    for name, labels in along.items():
        if name not in target and not zero:
            coupling.pin(labels, f"{describe(node)} sums over them where they are not zero")
    return [Flow([along[name] for name in target], kept_zero)]


@register("Matmul")
class MatmulRule(Rule):
    """`keras.ops.matmul` and `@` of two computed tensors."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Ties the axis that is summed over, and the axes before."""
        if len(node.inputs) != 2:
            return pinned(node, coupling, f"{describe(node)} has a constant factor")
        ranks = [len(tensor.shape) for tensor in node.inputs]
        if min(ranks) < 2:
            return pinned(node, coupling, f"{describe(node)} multiplies a vector")
        depth = max(ranks) - 2
        batch = [f"batch{i}" for i in range(depth)]
        first = [*batch[depth - ranks[0] + 2 :], "rows", "sum"]
        second = [*batch[depth - ranks[1] + 2 :], "sum", "columns"]
        return multiplied(node, coupling, (first, second), [*batch, "rows", "columns"])


@register("Einsum")
class EinsumRule(Rule):
    """`keras.ops.einsum` of computed tensors."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """One name a letter; what an ellipsis stands for is aligned at its end."""
        text = node.operation.subscripts.replace(" ", "")
        left, arrow, right = text.partition("->")
        terms = left.split(",")
        if not arrow or len(terms) != len(node.inputs):
            return pinned(node, coupling, f"{describe(node)} has a constant or no '->'")
        names = [
            axis_names(term, len(tensor.shape))
            for term, tensor in zip(terms, node.inputs, strict=True)
        ]
        if any(len(set(term)) != len(term) for term in names):
            return pinned(node, coupling, f"{describe(node)} takes a diagonal")
        return multiplied(node, coupling, names, axis_names(right, len(node.outputs[0].shape)))


@register(layers.Dot)
class DotRule(Rule):
    """The `Dot` layer: sums over one axis of each."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Ties the two axes."""
        layer = node.operation
        ranks = [len(tensor.shape) for tensor in node.inputs]
        pair = [layer.axes] * 2 if isinstance(layer.axes, int) else layer.axes
        names = []
        for number, (rank, axis) in enumerate(zip(ranks, pair, strict=True)):
            term = ["batch", *(f"{number}.{i}" for i in range(1, rank))]
            term[axis % rank] = "sum"
            names.append(term)
        left = [name for term in names for name in term[1:] if name != "sum"]
        target = ["batch", *left]
        if len(target) != len(node.outputs[0].shape):
            return pinned(node, coupling, f"{describe(node)} reduces to a single number")
        return multiplied(node, coupling, names, target)


@register(layers.Attention)
class DotAttentionRule(Rule):
    """Query and key lose the same channels; the output has those of the value."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Tie query and key, and an additive layer's scale."""
        layer = node.operation
        query, value = node.inputs[:2]
        given = node.args[0] if node.args else node.kwargs["inputs"]
        key = given[2] if len(given) > 2 else value
        for tensor in (query, value, key):
            coupling.pin_others(tensor, (-1,), f"{describe(node)} attends along them")
        for tensor in node.inputs[len(given) :]:
            coupling.pin_others(tensor, (), f"{describe(node)} reads them as a mask")
        query_flow, key_flow = coupling.flow(query), coupling.flow(key)
        asked, held = query_flow.axes[-1], key_flow.axes[-1]
        coupling.tie(asked, held, f"{describe(node)} joins them to what has no channels")
        if not (query_flow.zero and key_flow.zero) or getattr(layer, "score_mode", "") == "concat":
            coupling.pin(asked, f"{describe(node)} sums over them where they are not zero")
        if isinstance(layer, layers.AdditiveAttention) and layer.use_scale:
            coupling.bind(node, layer.scale, 0, asked)
        value_flow = coupling.flow(value)
        axes: list[Labels] = [None] * len(query.shape)
        axes[-1] = value_flow.axes[-1]
        scores = [Flow([None] * len(tensor.shape), False) for tensor in node.outputs[1:]]
        return [Flow(axes, value_flow.zero), *scores]

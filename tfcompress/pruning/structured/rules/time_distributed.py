"""Layers applied to every step of a sequence whose length is not fixed."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.graph import Node, Tensor
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules.registry import (
    Rule,
    describe,
    nested_config,
    pinned,
    register,
    rule_of,
)


@register(layers.TimeDistributed)
class TimeDistributedRule(Rule):
    """What the rule of the layer inside says of one step. Fixed lengths never come here."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Couple one step."""
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            return pinned(node, coupling, f"{describe(node)} has several inputs or outputs")
        given = node.inputs[0]
        coupling.pin(coupling.flow(given).axes[1], f"they are the steps of {describe(node)}")
        inner = _one_step(node)
        coupling.inner[node] = inner
        flow = coupling.flow(given)
        coupling.flows[inner.inputs[0]] = Flow([flow.axes[0], *flow.axes[2:]], flow.zero)
        step = rule_of(inner.operation).couple(inner, coupling)[0]
        coupling.flows[inner.outputs[0]] = step
        return [Flow([step.axes[0], None, *step.axes[1:]], step.zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The config of the layer inside."""
        inner = kept.coupling.inner.get(node)
        if inner is None:
            return {}
        layer = node.operation.get_config()["layer"]
        changed = rule_of(inner.operation).config(inner, kept)
        return {"layer": nested_config(layer, changed)}


def _one_step(node: Node) -> Node:
    def without_steps(tensor: Tensor, producer: Node | None = None) -> Tensor:
        shape = (tensor.shape[0], *tensor.shape[2:])
        return Tensor(tensor.name, shape, tensor.dtype, producer)

    inner = Node(node.name, node.operation.layer, (without_steps(node.inputs[0]),), {})
    inner.outputs.append(without_steps(node.outputs[0], inner))
    return inner

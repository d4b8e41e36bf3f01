"""The rows that quantization contributes to a plan."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.graph import Graph, Node, Tensor, UntraceableModelError, flatten
from tfcompress.graph.weights import Weight, weights_of
from tfcompress.plan import Plan, PlanRow, weight_row
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.float_boundary import FloatBoundary
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.quantized_layer import QuantizedLayer
from tfcompress.quantization.rules import Role, rule_of
from tfcompress.quantization.rules.channel_affine import ChannelAffineRule
from tfcompress.quantization.scheme_assignment import EXCLUDED, SchemeAssignment
from tfcompress.quantization.schemes import Scheme, SchemeMap

TECHNIQUE = "quantize"


def plan_quantization(model: keras.Model, scheme: Scheme | SchemeMap) -> Plan:
    """What `quantize_aware(model, scheme)` would do to every tensor.

    A model whose `call` cannot be traced gets a plan in which every weight is left out.
    """
    try:
        graph = flatten(model)
    except UntraceableModelError as error:
        rows = [weight_row(weight, skipped={TECHNIQUE: str(error)}) for weight in weights_of(model)]
        return Plan(model.name, tuple(rows))
    assignment = SchemeAssignment(graph, scheme)
    return quantization_rows(graph, Placement(graph, assignment.excluded), assignment)


def quantization_rows(graph: Graph, placement: Placement, assignment: SchemeAssignment) -> Plan:
    """One row for each weight and activation of a graph."""
    rows = [_activation_row(tensor, placement, assignment) for tensor in graph.inputs]
    weights: dict[int, list[Weight]] = {}
    for weight in weights_of(graph):
        weights.setdefault(id(weight.owner), []).append(weight)
    for node in graph.nodes:
        # A shared layer's weights stand at its first call.
        own = weights.pop(id(node.operation), [])
        rows += _weight_rows(node, own, placement, assignment)
        rows += [_activation_row(tensor, placement, assignment) for tensor in node.outputs]
    return Plan(graph.model.name, tuple(rows))


def left_in_float(graph: Graph) -> list[dict[str, Any]]:
    """The operations of a quantization-aware model that LiteRT will run in float, with reasons."""
    rows = []
    excluded = _before_boundaries(graph)
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, (ActivationQuantizer, FloatBoundary, QuantizedLayer)):
            continue
        rule = rule_of(operation)
        refusal = rule.refusal(node)
        if refusal is None and (node in excluded or rule.wraps(node)):
            refusal = EXCLUDED
        if refusal and any(tensor.is_float for tensor in node.outputs):
            rows.append({"operation": node.name, "type": node.type_name, "reason": refusal})
    return rows


def _before_boundaries(graph: Graph) -> set[Node]:
    """The nodes that a scheme left in float, between quantized values and a boundary."""
    found: set[Node] = set()
    open_nodes = [node for node in graph.nodes if isinstance(node.operation, FloatBoundary)]
    while open_nodes:
        for tensor in open_nodes.pop().inputs:
            producer = tensor.producer
            if producer is None or producer in found:
                continue
            if not isinstance(producer.operation, (ActivationQuantizer, QuantizedLayer)):
                found.add(producer)
                open_nodes.append(producer)
    return found


def _weight_rows(
    node: Node, weights: list[Weight], placement: Placement, assignment: SchemeAssignment
) -> list[PlanRow]:
    rule = placement.rules[node]
    scheme = assignment.of_node(node)
    reason = rule.refusal(node) if placement.roles[node] is Role.FLOAT else None
    kernels = [] if reason else [id(kernel) for kernel, _ in rule.kernels(node.operation)]
    rows = []
    for weight in weights:
        if reason:
            rows.append(weight_row(weight, skipped={TECHNIQUE: reason}))
            continue
        action: dict[str, Any] = {"bits": 32, "scale": "input x kernel"}
        if id(weight.variable) in kernels:
            action = {"bits": scheme.weight_bits, "scale": scheme.weight_scale_words}
        elif node in placement.folded:
            action = {"folded into": node.inputs[0].name}
        elif isinstance(rule, ChannelAffineRule):
            action = {"becomes": "1x1 depthwise convolution"}
        rows.append(weight_row(weight, {TECHNIQUE: action}))
    return rows


def _activation_row(tensor: Tensor, placement: Placement, assignment: SchemeAssignment) -> PlanRow:
    node = tensor.producer
    scheme = assignment.of_tensor(tensor, placement.fused)
    actions: dict[str, dict[str, Any]] = {}
    skipped = {}
    group = placement.group_of(tensor)
    if not tensor.is_float:
        skipped[TECHNIQUE] = f"holds {tensor.dtype}"
    elif tensor in placement.fused:
        reader = placement.graph.consumers(tensor)[0]
        actions[TECHNIQUE] = {"fused into": reader.name}
    elif node is not None and placement.roles[node] is Role.FLOAT:
        skipped[TECHNIQUE] = placement.rules[node].refusal(node) or "acts in training only"
    elif group is not None and group.inside:
        actions[TECHNIQUE] = {"bits": scheme.activation_bits, "range": "learned inside the layer"}
    elif group is None or not group.members:
        skipped[TECHNIQUE] = "read by operations in float only"
    elif not placement.quantizes(tensor, group):
        actions[TECHNIQUE] = {
            "bits": scheme.activation_bits,
            "range of": group.members[-1].tensor.name,
        }
    else:
        # One quantizer, and so one scheme, for all that share the range.
        scheme = assignment.of_tensor(group.members[-1].tensor, placement.fused)
        actions[TECHNIQUE] = {"bits": scheme.activation_bits, "range": scheme.range_words}
        fixed = group.fixed_range or scheme.fixed_range
        if fixed is not None:
            low, high = fixed
            actions[TECHNIQUE]["range"] = f"{low:g} to {high:g}"
        others = [m.tensor.name for m in group.members if m.tensor is not tensor]
        if others:
            actions[TECHNIQUE]["shared with"] = " ".join(others)
    return PlanRow(
        tensor.name,
        tensor.name if node is None else node.name,
        "Input" if node is None else node.type_name,
        "activation",
        tensor.shape,
        actions,
        skipped,
    )

"""The parts of a network that can be left out: what they read can stand for what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras

from tfcompress.graph import Graph, Node, Tensor
from tfcompress.graph.bypass import bypassed, weights_in
from tfcompress.graph.macs import node_macs
from tfcompress.graph.selection import Patterns, as_patterns, matches, unmatched_error
from tfcompress.restructure.dominators import Dominators

KINDS = ("blocks", "layers")


@dataclass(frozen=True, eq=False)
class Unit:
    """A part of a network that can be left out.

    Attributes:
        name: Name of the residual block's addition, or of the layer.
        kind: `"block"` or `"layer"`.
        source: What the unit reads.
        target: What it makes, of the shape and dtype of `source`.
        nodes: What is needed no more without it.
        parameters: Number of weights in it.
        macs: Multiplications that it does for one sample.
    """

    name: str
    kind: str
    source: Tensor
    target: Tensor
    nodes: tuple[Node, ...]
    parameters: int
    macs: int

    @property
    def layers(self) -> list[str]:
        """Names of the layers with weights in it."""
        names = [node.name for node in self.nodes if node.layer and node.layer.weights]
        return list(dict.fromkeys(name.split("@")[0] for name in names))


def find_units(graph: Graph, kinds: str | None = None, exclude: Patterns = None) -> list[Unit]:
    """Find what can be left out of a network.

    A residual block is an addition to which one path leads unchanged, or through operations without
    kernels that keep the shape, from a value that all its inputs are made from. A layer can be left
    out if it has a kernel and keeps the shape; normalizations, activations and dropout that only it
    feeds go with it.

    Args:
        graph: The network.
        kinds: `"blocks"`, `"layers"`, or None for blocks where there are some, else layers.
            Defaults to None.
        exclude: Patterns of units that must stay, by their name or that of a layer in them.

    Returns:
        The units in the order of the network. Units may lie within each other.

    Raises:
        ValueError: If there are none, `kinds` is unknown, or a pattern matches nothing.
    """
    if kinds is not None and kinds not in KINDS:
        raise ValueError(
            f"`units` must be one of {', '.join(map(repr, KINDS))} or None. Received: {kinds!r}"
        )
    macs = node_macs(graph)
    blocks = _residual_blocks(graph, macs) if kinds != "layers" else []
    found = blocks if blocks or kinds == "blocks" else _layers(graph, macs)
    if not found:
        what = {"blocks": "residual block", "layers": "layer that keeps the shape"}.get(
            kinds or "", "residual block and no layer that keeps the shape"
        )
        raise ValueError(
            f"The model '{graph.model.name}' has no {what}, so nothing can be left out of it."
        )
    return _without(found, graph, as_patterns(exclude, "exclude") or ())


def _without(units: list[Unit], graph: Graph, patterns: Sequence[str | type]) -> list[Unit]:
    kept = units
    for pattern in patterns:
        named = [unit for unit in units if _is_named(unit, pattern)]
        if not named and not any(_matches(node, pattern) for node in graph.nodes):
            names = [unit.name for unit in units] + [node.name for node in graph.nodes]
            raise unmatched_error(
                "exclude", pattern, names, [node.type_name for node in graph.nodes]
            )
        kept = [unit for unit in kept if unit not in named]
    return kept


def _is_named(unit: Unit, pattern: str | type) -> bool:
    producer = unit.target.producer
    own = () if producer is None else (producer,)
    return any(_matches(node, pattern) for node in (*own, *unit.nodes))


def _matches(node: Node, pattern: str | type) -> bool:
    path = node.name.split("@")[0]
    return matches(path, node.operation, pattern, path.rsplit("/", 1)[-1]) is not None


def _residual_blocks(graph: Graph, macs: Mapping[Node, int]) -> list[Unit]:
    dominators = Dominators(graph)
    found = []
    for node in graph.nodes:
        if node.type_name != "Add" or len(node.inputs) < 2 or len(node.outputs) != 1:
            continue
        source = dominators.nearest(node)
        if source is None or not _alike(source, node.outputs[0]):
            continue
        if any(_is_unchanged(tensor, source) for tensor in node.inputs):
            found.append(_unit(graph, macs, node.name, "block", source, node.outputs[0]))
    return [unit for unit in found if unit.macs]


def _is_unchanged(tensor: Tensor, source: Tensor) -> bool:
    """Whether a tensor is another one, or made from it without kernels in the same shape."""
    while tensor is not source:
        node = tensor.producer
        if node is None or not _follows(node) or not _alike(node.inputs[0], tensor):
            return False
        tensor = node.inputs[0]
    return True


def _layers(graph: Graph, macs: Mapping[Node, int]) -> list[Unit]:
    found = []
    for node in graph.nodes:
        reads_one = bool(node.inputs) and all(t is node.inputs[0] for t in node.inputs)
        if node.layer is None or _follows(node) or not reads_one or len(node.outputs) != 1:
            continue
        source, target = node.inputs[0], node.outputs[0]
        if not _alike(source, target):
            continue
        reader = graph.only_consumer(target)
        while reader is not None and _follows(reader) and _alike(reader.outputs[0], target):
            target = reader.outputs[0]
            reader = graph.only_consumer(target)
        if target not in graph.outputs:
            found.append(_unit(graph, macs, node.name, "layer", source, target))
    return [unit for unit in found if unit.macs]


def _unit(
    graph: Graph, macs: Mapping[Node, int], name: str, kind: str, source: Tensor, target: Tensor
) -> Unit:
    rest = bypassed(graph, {target: source})
    left = {node.name for node in rest.nodes}
    gone = tuple(node for node in graph.nodes if node.name not in left)
    return Unit(
        name,
        kind,
        source,
        target,
        gone,
        weights_in(graph) - weights_in(rest),
        sum(macs[node] for node in gone),
    )


def _alike(first: Tensor, second: Tensor) -> bool:
    return (first.shape, first.dtype) == (second.shape, second.dtype)


def _follows(node: Node) -> bool:
    """Whether a node computes one value from one value without a kernel."""
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    weights = node.layer.weights if node.layer is not None else []
    nested = isinstance(node.operation, keras.Model)
    return not nested and all(len(weight.shape) < 2 for weight in weights)

"""A graph in which some values are replaced by earlier ones, and what that makes needless."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfcompress.graph.flat import Graph, Node, Tensor
from tfcompress.graph.rebuild import fill


def bypassed(graph: Graph, replaced: Mapping[Tensor, Tensor]) -> Graph:
    """Return a graph in which the readers of some tensors read earlier tensors.

    Nodes that feed no output afterwards are left out.

    Args:
        graph: The graph; it stays as it is.
        replaced: By tensor that is no longer read, the tensor that is read in its place, which is
            computed before it.

    Returns:
        A graph over the same operations.

    Example:

    ```python
    shorter = bypassed(graph, {block_output: block_input})
    ```
    """

    def source(tensor: Tensor) -> Tensor:
        while tensor in replaced:
            tensor = replaced[tensor]
        return tensor

    needed: set[Node] = set()
    open_tensors = [source(tensor) for tensor in graph.outputs]
    while open_tensors:
        node = open_tensors.pop().producer
        if node is not None and node not in needed:
            needed.add(node)
            open_tensors += [source(tensor) for tensor in node.inputs]
    known = {tensor: tensor for tensor in graph.inputs}

    def renewed(structure: Any) -> Any:
        return keras.tree.map_structure(
            lambda x: known[source(x)] if isinstance(x, Tensor) else x, structure
        )

    nodes = []
    for node in graph.nodes:
        if node in needed:
            copy = Node(node.name, node.operation, renewed(node.args), renewed(node.kwargs))
            copy.outputs = [Tensor(t.name, t.shape, t.dtype, copy, t.index) for t in node.outputs]
            known.update(zip(node.outputs, copy.outputs, strict=True))
            nodes.append(copy)
    return Graph(
        graph.model, graph.inputs, graph.input_structure, renewed(graph.output_structure), nodes
    )


def run_nodes(nodes: Iterable[Node], values: dict[Tensor, Any]) -> None:
    """Run nodes one by one, in inference mode.

    Args:
        nodes: Producers before consumers.
        values: What the nodes read, which is not computed by them; gets what they make.
    """
    for node in nodes:
        args, kwargs = fill(node.args, values), fill(node.kwargs, values)
        if _takes_training(node):
            kwargs = {"training": False, **kwargs}
        outputs = node.operation(*args, **kwargs)
        values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))


def _takes_training(node: Node) -> bool:
    """Whether a call could be given the argument `training`, which it is not given by position."""
    names = [] if node.layer is None else node.layer.call_signature_parameters
    return "training" in names[len(node.args) :]


def downstream(graph: Graph, tensor: Tensor) -> list[Node]:
    """Return the nodes whose results depend on a tensor, in order."""
    affected: set[Tensor] = {tensor}
    found = []
    for node in graph.nodes:
        if any(read in affected for read in node.inputs):
            affected.update(node.outputs)
            found.append(node)
    return found


def weights_in(graph: Graph) -> int:
    """Return the number of weights of all layers of a graph, shared ones once."""
    variables = {id(v): v for node in graph.nodes if node.layer for v in node.layer.weights}
    return sum(math.prod(variable.shape) for variable in variables.values())

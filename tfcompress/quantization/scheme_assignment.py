"""Which scheme each node and each activation of a graph has."""

from __future__ import annotations

import keras

from tfcompress.graph import Graph, Node, Tensor
from tfcompress.graph.selection import Pattern, matches, unmatched_error
from tfcompress.quantization.rules import Role, rule_of
from tfcompress.quantization.rules.channel_affine import BatchNormalizationRule
from tfcompress.quantization.schemes import Scheme, SchemeMap

EXCLUDED = "excluded by the scheme"


class SchemeAssignment:
    """Applies schemes to the layers of a graph.

    Args:
        graph: A graph of a float model.
        schemes: One scheme for all, or schemes by layer.

    Attributes:
        graph: The graph.
        excluded: Nodes that stay in float because the schemes say so.

    Raises:
        ValueError: If a pattern matches nothing, or leaves just an input in float.
    """

    def __init__(self, graph: Graph, schemes: Scheme | SchemeMap) -> None:
        self.graph = graph
        self._map = schemes if isinstance(schemes, SchemeMap) else SchemeMap(schemes)
        self._used: set[int] = set()
        self._chosen: dict[Node, Scheme | None] = {}
        for node in graph.nodes:
            found = self._find(node.name.split("@")[0], node.operation)
            if found is not None:
                self._chosen[node] = found[1]
        self._inputs: dict[Tensor, Scheme | None] = {}
        for tensor in graph.inputs:
            found = self._find(tensor.name, None)
            if found is not None:
                pattern, chosen = found
                if chosen is None and pattern == tensor.name:
                    raise ValueError(
                        f"The input {tensor.name!r} of the model cannot be left in float by "
                        "itself: an integer layer reads integers. Leave the layers that read it in "
                        f"float. Received: {pattern!r}: None"
                    )
                self._inputs[tensor] = chosen
        for number, (pattern, _) in enumerate(self._map.entries):
            if number not in self._used:
                names = [node.name for node in graph.nodes] + [t.name for t in graph.inputs]
                raise unmatched_error(
                    "scheme", pattern, names, [node.type_name for node in graph.nodes]
                )
        self.excluded: set[Node] = set()
        for node in graph.nodes:
            if self._excludes(node):
                self.excluded.add(node)

    def _find(
        self, name: str, operation: keras.Operation | None
    ) -> tuple[Pattern, Scheme | None] | None:
        found = None
        for number, (pattern, scheme) in enumerate(self._map.entries):
            if matches(name, operation, pattern, name.rsplit("/", 1)[-1]):
                self._used.add(number)
                found = (pattern, scheme)
        return found

    def _excludes(self, node: Node) -> bool:
        if node in self._chosen:
            return self._chosen[node] is None
        role = rule_of(node.operation).role(node)
        follows = role is Role.ACTIVATION or isinstance(
            rule_of(node.operation), BatchNormalizationRule
        )
        producer = node.inputs[0].producer if node.inputs else None
        # One operator with what computes its input, where it can fuse with it.
        if follows and producer is not None:
            return producer in self.excluded
        return self._map.default is None and role not in (Role.PASS_THROUGH, Role.FLOAT)

    def of_node(self, node: Node) -> Scheme:
        """The scheme of a node's weights, and of the activations inside its layer."""
        chosen = self._chosen.get(node) or self._map.default
        return Scheme() if chosen is None else chosen

    def of_tensor(self, tensor: Tensor, fused: set[Tensor]) -> Scheme:
        """The scheme of an activation.

        Args:
            tensor: The activation.
            fused: Tensors that are never seen, since their reader fuses into their producer.

        Returns:
            That of the layer that makes it, or of the one in front that it fuses with.
        """
        chosen = self._inputs.get(tensor)
        node = tensor.producer
        while chosen is None and node is not None:
            chosen = self._chosen.get(node)
            before = node.inputs[0] if node.inputs else None
            node = before.producer if before in fused and before is not None else None
        chosen = chosen or self._map.default
        return Scheme() if chosen is None else chosen

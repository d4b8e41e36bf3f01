"""Which value every path from the inputs to a value passes through."""

from __future__ import annotations

from tfcompress.graph import Graph, Node, Tensor


class Dominators:
    """The dominator tree of a graph.

    A value dominates another if every path from the model's inputs to the other passes through it.
    Computed in one pass, since the nodes are in order (Cooper, Harvey and Kennedy 2001, "A Simple,
    Fast Dominance Algorithm").

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._parent: dict[Node | Tensor, Node | Tensor | None] = {}
        self._depth: dict[Node | Tensor | None, int] = {None: 0}
        for tensor in graph.inputs:
            self._add(tensor, None)
        for node in graph.nodes:
            nearest: Node | Tensor | None = None
            for number, tensor in enumerate(node.inputs):
                place = tensor.producer or tensor
                nearest = place if number == 0 else self._common(nearest, place)
            self._add(node, nearest)

    def _add(self, place: Node | Tensor, parent: Node | Tensor | None) -> None:
        self._parent[place] = parent
        self._depth[place] = self._depth[parent] + 1

    def _common(
        self, first: Node | Tensor | None, second: Node | Tensor | None
    ) -> Node | Tensor | None:
        while first is not second:
            if self._depth[first] >= self._depth[second]:
                first = None if first is None else self._parent[first]
            else:
                second = None if second is None else self._parent[second]
        return first

    def nearest(self, node: Node) -> Tensor | None:
        """The last value that everything which a node reads is made from.

        None if there is none, or if it is one of several that one node makes.
        """
        place = self._parent[node]
        if isinstance(place, Node):
            return place.outputs[0] if len(place.outputs) == 1 else None
        return place

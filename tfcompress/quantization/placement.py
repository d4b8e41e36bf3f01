"""Where activation quantizers go, and which tensors share one.

LiteRT's kernels decide this: one range after every computation and its fused activation, none after
operations that only move values, one common range around a concatenation. A tensor has exactly one
quantized value, which all its readers use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from tfcompress.graph import Graph, Node, Tensor
from tfcompress.quantization.rules import Role, Rule, rule_of
from tfcompress.quantization.rules.channel_affine import BatchNormalizationRule
from tfcompress.quantization.rules.registry import FloatRule
from tfcompress.quantization.scheme_assignment import EXCLUDED


@dataclass(eq=False)
class Member:
    """One tensor that a range group quantizes.

    Attributes:
        tensor: The tensor.
        reader: The only node that reads this quantized value when the tensor already has another
            range (LiteRT requantizes it there), else None.
    """

    tensor: Tensor
    reader: Node | None = None


@dataclass(eq=False)
class RangeGroup:
    """Tensors that share one range, quantized together.

    Attributes:
        members: The tensors to quantize.
        followers: Tensors that have the range without a quantizer, through pass-through operations.
        fixed_range: The range where LiteRT imposes it.
        inside: Whether the layer that makes the tensors quantizes them inside itself.
    """

    members: list[Member] = field(default_factory=list)
    followers: list[Tensor] = field(default_factory=list)
    fixed_range: tuple[float, float] | None = None
    inside: bool = False

    @property
    def name(self) -> str:
        """Named after its last tensor in the order of the graph."""
        return self.members[-1].tensor.name.replace("/", "_").replace(":", "_").replace("@", "_")


class Placement:
    """Decides, for a graph, what is quantized where.

    Args:
        graph: The graph.
        excluded: Nodes to leave in float though they could be quantized. Defaults to none.

    Attributes:
        graph: The graph.
        rules: The rule of every node.
        roles: The role of every node.
        fused: Tensors without a range because their reader fuses into their producer.
        groups: The range groups that have members.
        folded: Batch normalizations that fold into the operation before them.
    """

    def __init__(self, graph: Graph, excluded: Collection[Node] = ()) -> None:
        self.graph = graph
        self._excluded = excluded
        self.rules: dict[Node, Rule] = {
            node: FloatRule(EXCLUDED) if node in excluded else rule_of(node.operation)
            for node in graph.nodes
        }
        self.roles: dict[Node, Role] = {}
        for node in graph.nodes:
            role = self.rules[node].role(node)
            refused = role is not Role.FLOAT and self.rules[node].refusal(node) is not None
            self.roles[node] = Role.FLOAT if refused else role
        self.fused: set[Tensor] = set()
        self.folded: set[Node] = set()
        self._find_fusions()
        self._group_of: dict[Tensor, RangeGroup] = {}
        self._edge_group: dict[tuple[Node, Tensor], RangeGroup] = {}
        # 0 for what is computed last.
        self._age = {tensor: age for age, tensor in enumerate(reversed(list(graph.tensors)))}
        for tensor in graph.inputs:
            self._add_source(tensor)
        for node in graph.nodes:
            self._place(node)
        groups = [*self._group_of.values(), *self._edge_group.values()]
        self.groups = [group for group in dict.fromkeys(groups) if group.members]

    def _find_fusions(self) -> None:
        for node in self.graph.nodes:
            if self.roles[node] is not Role.COMPUTE or len(node.outputs) != 1:
                continue
            tensor, rule = node.outputs[0], self.rules[node]
            reader = self.graph.only_consumer(tensor)
            if reader is None or self.roles[reader] is Role.FLOAT:
                continue
            if isinstance(self.rules[reader], BatchNormalizationRule):
                # A layer that is called more than once folds nowhere in particular.
                calls = sum(n.operation is reader.operation for n in self.graph.nodes)
                if rule.folds_batchnorm(node) and calls == 1:
                    self.fused.add(tensor)
                    self.folded.add(reader)
            elif self.roles[reader] is Role.ACTIVATION and rule.fuses_relu(node):
                self.fused.add(tensor)

    def _place(self, node: Node) -> None:
        outputs = [t for t in node.outputs if t.is_float and t not in self.fused]
        role = self.roles[node]
        if role is Role.PASS_THROUGH:
            for source in node.inputs:
                for tensor in outputs:
                    self._follow(tensor, source)
        elif role is Role.SAME_RANGE:
            self._share(node, outputs)
        else:
            for tensor in outputs:
                self._add_source(tensor)

    def _add_source(self, tensor: Tensor) -> None:
        if not tensor.is_float:
            return
        group = RangeGroup()
        self._group_of[tensor] = group
        producer = tensor.producer
        if producer is None or self.roles[producer] is Role.FLOAT:
            if not self._feeds_integers(tensor):
                return
        elif self.rules[producer].quantizes_output(producer, tensor.index):
            group.inside = True
            return
        else:
            group.fixed_range = self.rules[producer].fixed_range(producer)
        group.members.append(Member(tensor))

    def _feeds_integers(self, tensor: Tensor) -> bool:
        """Whether an integer operation, or the model's caller, reads the tensor."""
        if tensor in self.graph.outputs:
            # A layer that the user left in float keeps its precision to the end.
            return tensor.producer not in self._excluded
        for reader in self.graph.consumers(tensor):
            if self.roles[reader] is Role.PASS_THROUGH:
                if any(self._feeds_integers(output) for output in reader.outputs):
                    return True
            elif self.roles[reader] is not Role.FLOAT:
                return True
        return False

    def _follow(self, tensor: Tensor, source: Tensor) -> None:
        group = self._group_of.get(source)
        if group is None:
            return
        self._group_of[tensor] = group
        group.followers.append(tensor)

    def _share(self, node: Node, outputs: list[Tensor]) -> None:
        before = dict(self._group_of), dict(self._edge_group)
        shared = self._shared_range(node, merging=True)
        if not self._can_run():
            # What must be requantized depends on what it shares the range with: requantize all.
            self._group_of, self._edge_group = before
            shared = self._shared_range(node, merging=False)
        for tensor in outputs:
            self._group_of[tensor] = shared
            shared.followers.append(tensor)

    def _shared_range(self, node: Node, merging: bool) -> RangeGroup:
        inputs = [t for t in dict.fromkeys(node.inputs) if t in self._group_of]
        # Newest first: what must be requantized is then what has been in use for longest.
        newest = sorted(inputs, key=self._age.__getitem__)
        groups = list(dict.fromkeys(self._group_of[t] for t in newest))
        shared = RangeGroup()
        if len({group.fixed_range for group in groups}) == 1:
            shared.fixed_range = groups[0].fixed_range
        for group in groups if merging else []:
            if group.fixed_range != shared.fixed_range or not group.members:
                continue
            if self._can_merge(shared, group):
                self._merge(group, shared)
        for tensor in inputs:
            if self._group_of[tensor] is not shared:
                shared.members.append(Member(tensor, node))
                self._edge_group[node, tensor] = shared
        return shared

    def _can_run(self) -> bool:
        try:
            self.schedule()
        except CycleError:
            return False
        return True

    def _can_merge(self, shared: RangeGroup, group: RangeGroup) -> bool:
        if not shared.members:
            return True
        before = dict(self._group_of)
        trial = RangeGroup([*group.members, *shared.members])
        for tensor, owner in before.items():
            if owner in (group, shared):
                self._group_of[tensor] = trial
        possible = self._can_run()
        self._group_of = before
        return possible

    def _merge(self, group: RangeGroup, into: RangeGroup) -> None:
        into.members[:0] = group.members
        into.followers[:0] = group.followers
        for tables in (self._group_of, self._edge_group):
            for key, owner in tables.items():
                if owner is group:
                    tables[key] = into  # type: ignore[index]

    def group_of(self, tensor: Tensor, reader: Node | None = None) -> RangeGroup | None:
        """The group whose range a tensor has, as `reader` sees it."""
        if reader is not None and (reader, tensor) in self._edge_group:
            return self._edge_group[reader, tensor]
        return self._group_of.get(tensor)

    def quantizes(self, tensor: Tensor, group: RangeGroup) -> bool:
        """Whether `group` quantizes `tensor` itself, for all its readers."""
        return any(m.tensor is tensor and m.reader is None for m in group.members)

    def is_requantized(self, tensor: Tensor, reader: Node) -> bool:
        """Whether `reader` needs `tensor` in another range than the tensor's own."""
        return (reader, tensor) in self._edge_group

    def schedule(self) -> Iterator[Node | RangeGroup]:
        """Nodes and range groups in an order in which they can run.

        Raises:
            graphlib.CycleError: If the groups tie the graph into a knot.
        """
        sorter: TopologicalSorter[Node | RangeGroup] = TopologicalSorter()
        for node in self.graph.nodes:
            sorter.add(node)
            for tensor in node.inputs:
                self._add_dependency(sorter, node, tensor, node)
        for group in dict.fromkeys([*self._group_of.values(), *self._edge_group.values()]):
            for member in group.members:
                if member.reader is None:
                    sorter.add(group, *([member.tensor.producer] if member.tensor.producer else []))
                else:
                    self._add_dependency(sorter, group, member.tensor, None)
        return iter(tuple(sorter.static_order()))

    def _add_dependency(
        self,
        sorter: TopologicalSorter[Node | RangeGroup],
        unit: Node | RangeGroup,
        tensor: Tensor,
        reader: Node | None,
    ) -> None:
        group = self.group_of(tensor, reader)
        requantized = reader is not None and self.is_requantized(tensor, reader)
        if group is not None and (requantized or self.quantizes(tensor, group)):
            sorter.add(unit, group)
        elif tensor.producer is not None:
            sorter.add(unit, tensor.producer)

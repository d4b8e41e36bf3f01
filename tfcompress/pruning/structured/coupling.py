"""How the channels of a model's tensors and weights depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import keras
import numpy as np

from tfcompress.graph import Graph, Node, Tensor
from tfcompress.pruning.structured.labels import ChannelLabels, Labels


class Role(Enum):
    """What an axis of a weight has to do with the channels along it."""

    MAKES = "makes"  # the channel is zero when these are: kernels' outputs, biases, scales
    READS = "reads"  # the channel has no effect when these are zero
    TRACKS = "tracks"  # statistics that do not matter once the channel is zero
    MARKS = "marks"  # no weight: a part of a tensor that must not become empty


@dataclass
class Flow:
    """What is known about a tensor.

    Attributes:
        axes: Labels along each axis.
        zero: Whether a channel is zero here when all weights that make it are.
    """

    axes: list[Labels]
    zero: bool = True

    @property
    def labelled(self) -> list[int]:
        """The axes that have channels."""
        return [index for index, labels in enumerate(self.axes) if labels is not None]


@dataclass(eq=False)
class Binding:
    """An axis of a weight and the channels along it.

    Attributes:
        owner: The variable; for `MARKS` the object that the part belongs to.
        axis: Number of the axis.
        labels: The channels, of shape (size of the axis,); None if they are fixed.
        role: What the weight does for them.
        layer: Path of the layer.
        operation: The layer.
        constant: For `READS`: whether it may read something else than zero from a channel whose
            weights are zero, as behind a sigmoid.
    """

    owner: Any
    axis: int
    labels: Labels
    role: Role
    layer: str
    operation: keras.Operation
    constant: bool = False

    @property
    def channels(self) -> np.ndarray:
        """The labels, of a binding that has some."""
        if self.labels is None:
            raise ValueError(f"Axis {self.axis} of a weight of '{self.layer}' has no channels.")
        return self.labels

    @property
    def others(self) -> tuple[int, ...]:
        """The other axes of the weight."""
        return tuple(i for i in range(len(self.owner.shape)) if i != self.axis)

    def broadcast(self, values: np.ndarray) -> np.ndarray:
        """Values by position of the axis, in a shape that broadcasts to the weight's."""
        shape = [1] * len(self.owner.shape)
        shape[self.axis] = -1
        return values.reshape(shape)


@dataclass(eq=False)
class Kind:
    """Where channels come from.

    Attributes:
        layer: Path of the layer.
        word: What they are: `"channels"`, `"heads"`, `"units"`, …
        labels: Their labels.
        operation: The layer.
    """

    layer: str
    word: str
    labels: np.ndarray
    operation: keras.Operation


@dataclass
class Coupling:
    """The channels of a graph while its rules describe them, node by node.

    Attributes:
        graph: The graph.
        exact: Whether channels stay whose removal changes what is left of a tensor.
        channels: All labels.
        flows: What is known of each tensor.
        bindings: The axes of weights, by `(id(variable), axis)`.
        kinds: Where the labels come from, by layer and word.
        readers: Tensors that weights read, as `(binding, tensor, axis)`.
        inner: What a `TimeDistributed` layer does to one step, by its node.
    """

    graph: Graph
    exact: bool = True
    channels: ChannelLabels = field(default_factory=ChannelLabels)
    flows: dict[Tensor, Flow] = field(default_factory=dict)
    bindings: dict[tuple[int, int], Binding] = field(default_factory=dict)
    kinds: dict[tuple[int, str], Kind] = field(default_factory=dict)
    readers: list[tuple[Binding, Tensor, int]] = field(default_factory=list)
    inner: dict[Node, Node] = field(default_factory=dict)

    def flow(self, tensor: Tensor) -> Flow:
        """What is known of a tensor that a node reads."""
        return self.flows[tensor]

    def fresh(self, node: Node, count: int, word: str = "channels") -> np.ndarray:
        """Labels of the channels that a node's layer makes; the same at every call of the layer."""
        key = (id(node.operation), word)
        if key not in self.kinds:
            path = node.name.split("@")[0]
            self.kinds[key] = Kind(path, word, self.channels.new(count), node.operation)
        return self.kinds[key].labels

    def bind(
        self, node: Node, variable: Any, axis: int, labels: Labels, role: Role = Role.MAKES
    ) -> Binding | None:
        """Say what lies along an axis of a weight of a node's layer.

        Args:
            node: The node.
            variable: The weight; None for one that the layer does not have, which does nothing.
            axis: The axis; may be negative.
            labels: The channels along it; None if they are fixed.
            role: What the weight does for the channels.
        """
        if variable is None:
            return None
        axis %= len(variable.shape)
        return self._bind(node, variable, axis, labels, role)

    def read(self, node: Node, variable: Any, axis: int, tensor: Tensor, index: int) -> None:
        """Say that a weight reads the channels of a tensor that the node is given.

        Args:
            node: The node.
            variable: The weight.
            axis: Axis of the weight; may be negative.
            tensor: The tensor.
            index: Axis of the tensor; may be negative.
        """
        index %= len(tensor.shape)
        flow = self.flow(tensor)
        binding = self.bind(node, variable, axis, flow.axes[index], Role.READS)
        if binding is not None and flow.axes[index] is not None:
            binding.constant |= not flow.zero
            self.readers.append((binding, tensor, index))

    def mark(self, node: Node, axis: int, labels: Labels, of_call: bool = False) -> None:
        """Keep a part of a tensor from becoming empty, and of one size at every call of a layer.

        Args:
            node: The node that makes the part.
            axis: Number that tells parts of one node apart.
            labels: The channels of the part.
            of_call: Whether each call of the layer may differ. Defaults to False.
        """
        if labels is not None:
            self._bind(node, node if of_call else node.operation, axis, labels, Role.MARKS)

    def tie(self, first: Labels, second: Labels, reason: str) -> None:
        """Let two axes lose the same channels; if one is fixed, the other is pinned.

        Args:
            first: Labels of an axis.
            second: Labels of an axis of the same size.
            reason: Why the channels are pinned, if one axis has none.
        """
        if first is not None and second is not None:
            self.channels.tie(first, second)
        else:
            self.pin(first, reason)
            self.pin(second, reason)

    def tie_rows(self, table: np.ndarray) -> None:
        """Tie all channels in each row of a table of labels."""
        self.channels.tie(np.broadcast_to(table[:, :1], table.shape), table)

    def pin(self, labels: Labels, reason: str) -> None:
        """Let channels stay."""
        self.channels.pin(labels, reason)

    def pin_others(self, tensor: Tensor, allowed: Sequence[int], reason: str) -> None:
        """Let the channels along all axes of a tensor stay, except along those allowed."""
        rank = len(tensor.shape)
        kept = {axis % rank for axis in allowed}
        for index, labels in enumerate(self.flow(tensor).axes):
            if index not in kept:
                self.pin(labels, reason)

    def fixed(self, count: int, reason: str) -> np.ndarray:
        """Labels of positions that stay."""
        labels = np.repeat(self.channels.new(1), count)
        self.pin(labels, reason)
        return labels

    def labels_of(self, variable: Any, axis: int) -> Labels:
        """The channels along an axis of a weight; None if it stays whole."""
        binding = self.bindings.get((id(variable), axis))
        return None if binding is None else binding.labels

    def _bind(self, node: Node, owner: Any, axis: int, labels: Labels, role: Role) -> Binding:
        key = (id(owner), axis)
        path = node.name.split("@")[0]
        known = self.bindings.get(key)
        if known is None:
            known = Binding(owner, axis, labels, role, path, node.operation)
            self.bindings[key] = known
        else:
            self.tie(known.labels, labels, f"'{path}' is also called on what has no channels")
        return known

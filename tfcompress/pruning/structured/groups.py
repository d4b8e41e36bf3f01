"""Groups of channels that depend on each other, and those that cannot go: printable."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfcompress.graph import Graph, flatten
from tfcompress.graph.selection import Pattern, Patterns, as_patterns, matches, unmatched_error
from tfcompress.pruning.structured.coupling import Binding, Coupling, Kind, Role
from tfcompress.pruning.structured.rules import rule_of
from tfcompress.pruning.structured.rules.registry import UnknownRule, describe, unlabelled
from tfcompress.text_table import render

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of which any may be removed, each with all that depends on it.

    Attributes:
        layers: Paths of the layers that make the channels; of several, each has as many.
        word: What they are: `"channels"`, `"heads"`, `"units"`, …
        units: One label for each channel, or set of channels that goes as a whole, of shape
            (size,).
        width: How many channels of the first layer each unit has; above 1 for whole groups of a
            grouped convolution.
        weights: The axes of weights that are sliced, with how many positions a unit has there.
    """

    layers: tuple[str, ...]
    word: str
    units: np.ndarray
    width: int
    weights: tuple[tuple[Binding, int], ...]

    @property
    def name(self) -> str:
        """The layers, shortened, and the word where it is not `"channels"`."""
        shown = ", ".join(self.layers[:3]) + (", …" if len(self.layers) > 3 else "")
        return shown if self.word == "channels" else f"{shown} ({self.word})"

    @property
    def size(self) -> int:
        """How many units there are."""
        return int(self.units.size)

    @property
    def makers(self) -> list[Binding]:
        """Weights that make the channels: to remove these removes the channels."""
        return [binding for binding, _ in self.weights if binding.role is Role.MAKES]

    def sizes(self, round_to: int) -> list[int]:
        """How many units may be left, from all on downwards, at least one.

        Args:
            round_to: What the number of channels left must be a multiple of; heads are single.
        """
        step = 1 if self.word == "heads" else round_to // math.gcd(round_to, self.width)
        return [self.size, *(n for n in range(self.size - 1, 0, -1) if n % step == 0)]


@dataclass(frozen=True)
class PinnedChannels:
    """Channels that cannot go.

    Attributes:
        layer: Path of the layer that makes them.
        word: What they are.
        count: How many.
        reason: Why.
    """

    layer: str
    word: str
    count: int
    reason: str


class DependencyGroups:
    """Which channels of a model can be removed, and what goes with them. See `dependency_groups`.

    Attributes:
        model: The model.
        graph: Its flat graph.
        coupling: The labels of all channels, and the weights that they lie along.
        roots: For every label the one that stands for its set, of shape (labels,).
        groups: The groups, in the order of the model.
        pinned: What cannot go.
    """

    def __init__(self, model: keras.Model, graph: Graph, coupling: Coupling) -> None:
        self.model = model
        self.graph = graph
        self.coupling = coupling
        self.roots = coupling.channels.roots()
        self.groups, self.pinned = _grouped(coupling, self.roots)

    @property
    def bindings(self) -> list[Binding]:
        """The axes of weights that have channels."""
        return [
            binding
            for binding in self.coupling.bindings.values()
            if binding.labels is not None and binding.role is not Role.MARKS
        ]

    def removed(self, units: Iterable[int]) -> np.ndarray:
        """For every label whether it is in one of some units, of shape (labels,)."""
        gone = np.zeros(len(self.roots), bool)
        gone[list(units)] = True
        gone_labels: np.ndarray = gone[self.roots]
        return gone_labels

    def counts(self, units: Iterable[int]) -> list[int]:
        """How many of some units each group has."""
        gone = self.removed(units)
        return [int(np.count_nonzero(gone[group.units])) for group in self.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        rows = []
        for group in self.groups:
            weights = [_axis_name(binding) for binding, _ in group.weights]
            more = f", … ({len(weights)})" if len(weights) > 4 else ""
            rows.append((group.name, str(group.size), ", ".join(weights[:4]) + more))
        lines = [f"Dependency groups of '{self.model.name}'"]
        if rows:
            lines.append(render(("group", "size", "weights"), rows))
        if self.pinned:
            pinned = [(p.layer, f"{p.count} {p.word}", p.reason) for p in self.pinned]
            lines += ["", "Cannot go", render(("layer", "what", "reason"), pinned)]
        return "\n".join(lines)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def to_frame(self) -> pandas.DataFrame:
        """One row a group, and one for each set of channels that cannot go, with the reason."""
        import pandas

        rows: list[dict[str, Any]] = [
            {
                "layers": ", ".join(group.layers),
                "what": group.word,
                "count": group.size,
                "can_go": True,
                "weights": ", ".join(_axis_name(binding) for binding, _ in group.weights),
                "reason": "",
            }
            for group in self.groups
        ]
        rows += [
            {
                "layers": entry.layer,
                "what": entry.word,
                "count": entry.count,
                "can_go": False,
                "weights": "",
                "reason": entry.reason,
            }
            for entry in self.pinned
        ]
        return pandas.DataFrame(rows)

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw how many channels each group has, and those that cannot go (needs matplotlib).

        Args:
            ax: Axes to draw into. Defaults to a new figure.

        Returns:
            The axes.
        """
        from tfcompress.evaluation.group_plot import draw_groups

        return draw_groups(self, ax)

    def _repr_html_(self) -> str:
        caption = f"<p>Dependency groups of '{html.escape(self.model.name)}'</p>"
        return caption + self.to_frame().to_html(index=False)


def dependency_groups(
    model: keras.Model,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    exact: bool = True,
) -> DependencyGroups:
    """Find the channels of a model that can be removed, and which must go together.

    Removing an output channel of a layer removes the channel's weights in the layers behind it, and
    a residual addition removes the same channel from all its branches. Each kind of layer has a
    small registered rule that says so for its own weights
    (`tfcompress.pruning.structured.rules.register` adds one for a custom layer).

    Reference: Fang et al., "DepGraph: Towards Any Structural Pruning" (2023),
    https://arxiv.org/abs/2301.12900, section 3.2.

    Args:
        model: A built Keras model. It is not changed.
        include: Only channels made by these layers: names, paths in nested models, regular
            expressions, layer classes or their names, or a list of these. Defaults to None: all.
        exclude: Layers that keep all their channels; wins over `include`. Defaults to None.
        exact: Whether channels stay whose removal changes the others, as a layer normalization over
            them does. Defaults to True.

    Returns:
        An object that prints as a table; `to_frame()` gives a data frame.

    Raises:
        ValueError: If the model is not built, or a pattern matches no layer.
        UntraceableModelError: If it is a subclassed model whose `call` cannot be traced.

    Example:

    ```python
    print(tfcompress.dependency_groups(model, exclude="head"))
    ```
    """
    graph = flatten(model)
    coupling = Coupling(graph, exact)
    for tensor in graph.inputs:
        coupling.flows[tensor] = unlabelled(tensor)
    for node in graph.nodes:
        flows = rule_of(node.operation).couple(node, coupling)
        coupling.flows.update(zip(node.outputs, flows, strict=True))
    _pin_weights_read_elsewhere(coupling)
    for tensor in graph.outputs:
        for labels in coupling.flow(tensor).axes:
            coupling.channels.pin(labels, f"output '{tensor.name}' of the model", decisive=True)
    _pin_unwanted(coupling, as_patterns(include, "include"), as_patterns(exclude, "exclude"))
    return DependencyGroups(model, graph, coupling)


def _pin_weights_read_elsewhere(coupling: Coupling) -> None:
    """Let channels stay along weights that an operation without a rule for them reads as well."""
    bound = defaultdict(list)
    for binding in coupling.bindings.values():
        bound[id(binding.owner)].append(binding)
    for node in coupling.graph.nodes:
        leaves = keras.tree.flatten((node.args, node.kwargs))
        read = [leaf for leaf in leaves if isinstance(leaf, keras.Variable)]
        if node.layer is not None and isinstance(rule_of(node.operation), UnknownRule):
            read += node.layer.variables
        for variable in read:
            for binding in bound[id(variable)]:
                coupling.pin(binding.labels, f"{describe(node)} reads '{variable.path}' as well")


def _pin_unwanted(
    coupling: Coupling,
    included: Sequence[Pattern] | None,
    excluded: Sequence[Pattern] | None,
) -> None:
    graph = coupling.graph
    named = {node.name.split("@")[0]: node.operation for node in graph.nodes if node.layer}
    for argument, patterns in (("include", included), ("exclude", excluded)):
        for pattern in patterns or ():
            if not any(_named(path, layer, (pattern,)) for path, layer in named.items()):
                kinds = [type(layer).__name__ for layer in named.values()]
                raise unmatched_error(argument, pattern, named, kinds)
    for binding in coupling.bindings.values():
        found = binding.role is Role.MAKES and _named(binding.layer, binding.operation, excluded)
        if found:
            shown = found if isinstance(found, str) else found.__name__
            coupling.pin(binding.labels, f"excluded by {shown!r}")
    if included is None:
        return
    roots = coupling.channels.roots()
    wanted = np.zeros(len(roots), bool)
    for kind in coupling.kinds.values():
        if _named(kind.layer, kind.operation, included):
            wanted[roots[kind.labels]] = True
    for kind in coupling.kinds.values():
        coupling.pin(kind.labels[~wanted[roots[kind.labels]]], "not in `include`")


def _named(path: str, layer: Any, patterns: Sequence[Pattern] | None) -> Pattern | None:
    if not isinstance(layer, keras.layers.Layer):
        return None
    parts = path.split("/")
    aliases = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return matches(layer.name, layer, patterns, *aliases)


def _grouped(
    coupling: Coupling, roots: np.ndarray
) -> tuple[tuple[ChannelGroup, ...], tuple[PinnedChannels, ...]]:
    reasons = coupling.channels.reasons()
    bindings = [b for b in coupling.bindings.values() if b.labels is not None]
    kinds = list(coupling.kinds.values())
    # What each unit consists of: how many positions on every axis, and of every layer.
    contents: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, labels in enumerate([*(k.labels for k in kinds), *(b.labels for b in bindings)]):
        found, counts = np.unique(roots[labels], return_counts=True)
        for root, count in zip(found.tolist(), counts.tolist(), strict=True):
            contents[root].append((number, count))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    stuck: dict[tuple[int, str], int] = defaultdict(int)
    for root, content in sorted(contents.items()):
        if root not in reasons:
            alike[tuple(content)].append(root)
            continue
        for number, count in content:
            if number < len(kinds):
                stuck[number, reasons[root]] += count
    groups = [_group(content, units, kinds, bindings) for content, units in alike.items()]
    pinned = [
        PinnedChannels(kinds[number].layer, kinds[number].word, count, reason)
        for (number, reason), count in sorted(stuck.items(), key=lambda item: item[0][0])
    ]
    return tuple(groups), tuple(pinned)


def _group(
    content: tuple[tuple[int, int], ...],
    units: list[int],
    kinds: list[Kind],
    bindings: list[Binding],
) -> ChannelGroup:
    makers = [(kinds[number], count) for number, count in content if number < len(kinds)]
    sliced = [
        (bindings[number - len(kinds)], count) for number, count in content if number >= len(kinds)
    ]
    return ChannelGroup(
        layers=tuple(dict.fromkeys(kind.layer for kind, _ in makers)),
        word=makers[0][0].word,
        units=np.asarray(units),
        width=makers[0][1],
        weights=tuple((b, count) for b, count in sliced if b.role is not Role.MARKS),
    )


def _axis_name(binding: Binding) -> str:
    return f"{binding.layer}/{binding.owner.name}[{binding.axis}]"

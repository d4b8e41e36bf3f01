"""Joining tensors along an axis and taking them apart again."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph import Node
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.registry import Rule, describe, pinned, register


@register(layers.Concatenate, "Concatenate")
class ConcatenateRule(Rule):
    """Labels are joined as the tensors are; along the other axes the operands are tied."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Join the labels."""
        rank = len(node.outputs[0].shape)
        axis = node.operation.axis % rank
        flows = [coupling.flow(tensor) for tensor in node.inputs]
        axes: list[Labels] = []
        for index in range(rank):
            along = [flow.axes[index] for flow in flows]
            if index == axis and any(labels is not None for labels in along):
                parts = [
                    coupling.fixed(tensor.shape[index] or 0, f"{tensor.name} has no channels")
                    if labels is None
                    else labels
                    for tensor, labels in zip(node.inputs, along, strict=True)
                ]
                axes.append(np.concatenate(parts))
            else:
                axes.append(_tied(node, coupling, along))
        return [Flow(axes, all(flow.zero for flow in flows if flow.labelled))]


def _tied(node: Node, coupling: Coupling, along: list[Labels]) -> Labels:
    for labels in along[1:]:
        coupling.tie(along[0], labels, f"{describe(node)} joins them to what has no channels")
    return next((labels for labels in along if labels is not None), None)


@register("Stack")
class StackRule(Rule):
    """Tensors along a new axis."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Tie all operands."""
        flows = [coupling.flow(tensor) for tensor in node.inputs]
        axes = [
            _tied(node, coupling, list(along))
            for along in zip(*(flow.axes for flow in flows), strict=True)
        ]
        axes.insert(node.operation.axis % (len(axes) + 1), None)
        return [Flow(axes, all(flow.zero for flow in flows if flow.labelled))]


@register("Split")
class SplitRule(Rule):
    """Each part has its own channels; where the parts begin follows from what is left of them."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Cut the labels."""
        flow = coupling.flow(node.inputs[0])
        axis = node.operation.axis % len(flow.axes)
        flows, start = [], 0
        for number, output in enumerate(node.outputs):
            axes = list(flow.axes)
            labels = axes[axis]
            if labels is not None:
                size = output.shape[axis] or 0
                axes[axis] = labels[start : start + size]
                coupling.mark(node, number, axes[axis])
                start += size
            flows.append(Flow(axes, flow.zero))
        return flows

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The positions at which parts begin."""
        axis = node.operation.axis % len(node.inputs[0].shape)
        if kept.coupling.flow(node.inputs[0]).axes[axis] is None:
            return {}
        sizes = [kept.tensor(output, axis) or 0 for output in node.outputs]
        return {"indices_or_sections": np.cumsum(sizes)[:-1].tolist()}


@register("GetItem")
class SliceRule(Rule):
    """`x[..., a:b]`: a part of the channels, or one of them, which then stays."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Slice the labels."""
        key = node.args[1] if len(node.args) > 1 else node.kwargs["key"]
        entries = _expanded(key, len(node.inputs[0].shape))
        if entries is None or len(node.inputs) != 1:
            return pinned(node, coupling, f"{describe(node)} picks elements by a tensor or list")
        flow = coupling.flow(node.inputs[0])
        axes: list[Labels] = []
        own = 0
        for entry in entries:
            if entry is None:
                axes.append(None)
                continue
            labels = flow.axes[own]
            if isinstance(entry, int):
                coupling.pin(
                    None if labels is None else labels[entry], f"{describe(node)} picks it"
                )
            else:
                if labels is not None and entry.step not in (None, 1):
                    coupling.pin(labels, f"{describe(node)} skips some of them")
                axes.append(None if labels is None else labels[entry])
                coupling.mark(node, own, axes[-1], of_call=True)
            own += 1
        return [Flow(axes, flow.zero)]

    def arguments(
        self, node: Node, kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The key for what is left."""
        given = node.inputs[0]
        entries = _expanded(args[1] if len(args) > 1 else kwargs["key"], len(given.shape))
        if entries is None:
            return args, kwargs
        key: list[Any] = []
        own = 0
        for entry in entries:
            if entry is None:
                key.append(None)
                continue
            labels = kept.coupling.flow(given).axes[own]
            own += 1
            if labels is None or entry == slice(None):
                key.append(entry)
            elif isinstance(entry, int):
                key.append(kept.count(labels[: entry % labels.size]))
            elif entry.step in (None, 1):
                start, _, _ = entry.indices(labels.size)
                first = kept.count(labels[:start])
                key.append(slice(first, first + kept.count(labels[entry])))
            else:
                key.append(entry)
        if len(args) > 1:
            return (args[0], tuple(key), *args[2:]), kwargs
        return args, {**kwargs, "key": tuple(key)}


def _expanded(key: Any, rank: int) -> list[Any] | None:
    """An index with one entry an axis: a slice, an int, or None for a new axis; None if other."""
    entries = list(key) if isinstance(key, (tuple, list)) else [key]
    if not all(e is None or e is Ellipsis or isinstance(e, (int, slice)) for e in entries):
        return None
    for entry in entries:
        bounds = (entry.start, entry.stop, entry.step) if isinstance(entry, slice) else ()
        if not all(bound is None or isinstance(bound, int) for bound in bounds):
            return None
    used = sum(1 for e in entries if e is not None and e is not Ellipsis)
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    at = entries.index(Ellipsis)
    return [*entries[:at], *[slice(None)] * (rank - used), *entries[at + 1 :]]

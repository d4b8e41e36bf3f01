"""Normalization layers and other layers with one value a channel."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.graph import Node, keras_internals
from tfcompress.graph.axes import axes_of
from tfcompress.pruning.structured.coupling import Coupling, Flow, Role
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules.registry import Rule, describe, register


@register(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    """Every channel has its own scale, offset and statistics."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Without a scale a channel of zeros is zero only if its mean is."""
        layer, given = node.operation, node.inputs[0]
        flow = coupling.flow(given)
        axis = layer.axis % len(given.shape)
        labels = flow.axes[axis]
        tracked = Role.TRACKS if layer.scale else Role.MAKES
        for variable, role in (
            (getattr(layer, "gamma", None), Role.MAKES),
            (getattr(layer, "beta", None), Role.MAKES),
            (layer.moving_mean, tracked),
            (layer.moving_variance, Role.TRACKS),
        ):
            coupling.bind(node, variable, 0, labels, role)
        zero = (layer.scale or flow.zero) and flow.labelled in ([], [axis])
        return [Flow(list(flow.axes), zero)]


@register(layers.LayerNormalization, layers.RMSNormalization)
class LayerNormalizationRule(Rule):
    """Averages over channels, so that the others change when some go."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pinned, unless the change is accepted."""
        layer, given = node.operation, node.inputs[0]
        flow = coupling.flow(given)
        axes = axes_of(layer.axis, len(given.shape))
        for number, axis in enumerate(axes):
            if coupling.exact:
                coupling.pin(flow.axes[axis], f"{describe(node)} averages over them")
            names = ("gamma", "scale", "beta")
            for variable in (getattr(layer, name, None) for name in names):
                if hasattr(variable, "shape"):
                    coupling.bind(node, variable, number, flow.axes[axis])
        others = [index for index in flow.labelled if index not in axes]
        offset = getattr(layer, "beta", None) is not None
        return [Flow(list(flow.axes), not others or (flow.zero and not offset))]


@register(layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """Averages within groups of channels, which go as a whole."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Tie the channels of each group."""
        layer, given = node.operation, node.inputs[0]
        flow = coupling.flow(given)
        axis = layer.axis % len(given.shape)
        labels = flow.axes[axis]
        coupling.pin_others(given, (axis,), f"{describe(node)} averages over them")
        if labels is not None:
            coupling.tie_rows(labels.reshape(_group_count(layer, labels.size), -1))
        coupling.mark(node, 0, labels)
        coupling.bind(node, getattr(layer, "gamma", None), 0, labels)
        coupling.bind(node, getattr(layer, "beta", None), 0, labels)
        # What is constant in a group normalizes to zero.
        return [Flow(list(flow.axes), True)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The groups that are left."""
        layer, given = node.operation, node.inputs[0]
        axis = layer.axis % len(given.shape)
        channels = given.shape[axis]
        size = channels // _group_count(layer, channels)
        return {"groups": (kept.tensor(given, axis) or channels) // size}


def _group_count(layer: layers.GroupNormalization, channels: int) -> int:
    return channels if layer.groups == -1 else int(layer.groups)


@register(layers.UnitNormalization)
class UnitNormalizationRule(Rule):
    """Divides by the length of a vector, to which zeros add nothing."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pinned only where removed channels would not be zero."""
        given = node.inputs[0]
        flow = coupling.flow(given)
        if not flow.zero:
            for axis in axes_of(node.operation.axis, len(given.shape)):
                coupling.pin(flow.axes[axis], f"{describe(node)} divides by their length")
        return [Flow(list(flow.axes), flow.zero)]


@register(layers.PReLU)
class PReLURule(Rule):
    """A slope for every position that is not shared."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """The slopes have the shape of a sample, 1 along shared axes."""
        layer, given = node.operation, node.inputs[0]
        flow = coupling.flow(given)
        for index, size in enumerate(layer.alpha.shape, start=1):
            if size == given.shape[index]:
                coupling.bind(node, layer.alpha, index - 1, flow.axes[index])
        return [Flow(list(flow.axes), flow.zero)]


@register(keras_internals.LayerScale)
class LayerScaleRule(Rule):
    """The scales behind the blocks of ConvNeXt."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """One scale a channel."""
        flow = coupling.flow(node.inputs[0])
        coupling.bind(node, node.operation.gamma, 0, flow.axes[-1])
        return [Flow(list(flow.axes), flow.labelled in ([], [len(flow.axes) - 1]) or flow.zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """Their number."""
        return {"projection_dim": kept.weight(node.operation.gamma, 0)}

"""Convolutions of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph import Node
from tfcompress.pruning.structured.coupling import Coupling, Flow, Role
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.axes import channel_axis
from tfcompress.pruning.structured.rules.linear import activated, refuse_changed
from tfcompress.pruning.structured.rules.registry import Rule, describe, register


def _spatial_pinned(node: Node, coupling: Coupling) -> int:
    """Pin what lies along spatial axes; return the axis of the channels."""
    given = node.inputs[0]
    axis = channel_axis(node.operation, len(given.shape))
    coupling.pin_others(given, (axis,), f"they lie along a spatial axis of {describe(node)}")
    return axis


def _copies(node: Node, labels: Labels) -> Labels:
    """The channels behind a depthwise kernel, which copies each some times."""
    return None if labels is None else np.repeat(labels, node.operation.depth_multiplier)


def _made(node: Node, coupling: Coupling, labels: Labels) -> list[Flow]:
    output = node.outputs[0]
    axes: list[Labels] = [None] * len(output.shape)
    axes[channel_axis(node.operation, len(axes))] = labels
    return [activated(node, coupling, axes)]


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvolutionRule(Rule):
    """`filters` new channels.

    Of a grouped convolution whole groups go, inputs and outputs, or, where groups are wider than
    they are many, the same channels of every group.
    """

    kernel_axes = (-2, -1)

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Kernel `(..., in / groups, out)` and bias."""
        if (refused := refuse_changed(node, coupling)) is not None:
            return refused
        layer, given = node.operation, node.inputs[0]
        axis = _spatial_pinned(node, coupling)
        reads, makes = self.kernel_axes
        made = coupling.fresh(node, layer.filters)
        labels = coupling.flow(given).axes[axis]
        if _groups(layer) == 1:
            coupling.read(node, layer.kernel, reads, given, axis)
        elif self._loses_groups(layer, labels):
            self._tie_whole_groups(node, coupling, labels, made)
        else:
            coupling.tie_rows(made.reshape(_groups(layer), -1).T)
            if labels is not None:
                inputs = labels.reshape(_groups(layer), -1)
                coupling.tie_rows(inputs.T)
                coupling.bind(node, layer.kernel, reads, inputs[0], Role.READS)
        coupling.bind(node, layer.kernel, makes, made)
        coupling.bind(node, layer.bias, 0, made)
        return _made(node, coupling, made)

    def _tie_whole_groups(
        self, node: Node, coupling: Coupling, given: Labels, made: np.ndarray
    ) -> None:
        if given is not None:
            inputs, outputs = (x.reshape(_groups(node.operation), -1) for x in (given, made))
            coupling.tie_rows(inputs)
            coupling.tie_rows(outputs)
            coupling.tie(inputs[:, 0], outputs[:, 0], "")

    def _loses_groups(self, layer: layers.Layer, given: Labels) -> bool:
        narrowest = min(layer.kernel.shape[-2], layer.filters // layer.groups)
        return given is not None and narrowest <= layer.groups

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """Filters, and the groups that are left."""
        layer, given = node.operation, node.inputs[0]
        filters = kept.weight(layer.kernel, self.kernel_axes[1])
        labels = kept.coupling.flow(given).axes[channel_axis(layer, len(given.shape))]
        if _groups(layer) > 1 and self._loses_groups(layer, labels):
            return {"filters": filters, "groups": filters * layer.groups // layer.filters}
        return {"filters": filters}


def _groups(layer: layers.Layer) -> int:
    return int(getattr(layer, "groups", 1))


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
class TransposedConvolutionRule(ConvolutionRule):
    """The same with the kernel's last two axes exchanged."""

    kernel_axes = (-1, -2)


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseRule(Rule):
    """Makes no new channels: every channel's copies go with it."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Kernel `(..., in, multiplier)`, and a bias of all copies."""
        layer, given = node.operation, node.inputs[0]
        axis = _spatial_pinned(node, coupling)
        labels = coupling.flow(given).axes[axis]
        copies = _copies(node, labels)
        coupling.bind(node, layer.kernel, -2, labels)
        coupling.bind(node, layer.bias, 0, copies)
        return _made(node, coupling, copies)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableRule(Rule):
    """A depthwise convolution, and one that makes `filters` new channels from its copies."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Kernels `(..., in, multiplier)` and `(..., in * multiplier, out)`, and a bias."""
        layer, given = node.operation, node.inputs[0]
        axis = _spatial_pinned(node, coupling)
        labels = coupling.flow(given).axes[axis]
        copies = _copies(node, labels)
        made = coupling.fresh(node, layer.filters)
        coupling.read(node, layer.depthwise_kernel, -2, given, axis)
        coupling.bind(node, layer.pointwise_kernel, -2, copies, Role.READS)
        coupling.bind(node, layer.pointwise_kernel, -1, made)
        coupling.bind(node, layer.bias, 0, made)
        return _made(node, coupling, made)

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The filters."""
        return {"filters": kept.weight(node.operation.pointwise_kernel, -1)}

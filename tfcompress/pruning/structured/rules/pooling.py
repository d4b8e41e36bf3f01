"""Operations along spatial axes, which treat every channel by itself."""

from __future__ import annotations

from keras import layers

from tfcompress.graph import Node
from tfcompress.graph.axes import axes_of
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.axes import channel_axis
from tfcompress.pruning.structured.rules.elementwise import answer_to_zeros
from tfcompress.pruning.structured.rules.registry import Rule, describe, register


@register(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.CenterCrop,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.RepeatVector,
    layers.Resizing,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    "AveragePool",
    "MaxPool",
    "Resize",
)
class SpatialRule(Rule):
    """The channels stay those of the input."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pin what lies along the other axes."""
        given, output = node.inputs[0], node.outputs[0]
        flow = coupling.flow(given)
        axis = channel_axis(node.operation, len(given.shape))
        coupling.pin_others(given, (axis,), f"they lie along a spatial axis of {describe(node)}")
        for other in node.inputs[1:]:
            coupling.pin_others(other, (), f"{describe(node)} reads them as a mask")
        axes: list[Labels] = [None] * len(output.shape)
        axes[channel_axis(node.operation, len(axes))] = flow.axes[axis]
        return [Flow(axes, flow.zero)]


@register("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "All", "Any")
class ReductionRule(Rule):
    """Removes axes; only a sum does not notice when zeros go."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pin channels along the reduced axes, unless zeros are summed."""
        given, output = node.inputs[0], node.outputs[0]
        flow = coupling.flow(given)
        rank = len(given.shape)
        reduced = axes_of(node.operation.axis, rank)
        for index in reduced:
            if not (node.type_name == "Sum" and flow.zero):
                coupling.pin(flow.axes[index], f"{describe(node)} is taken over them")
        left = [labels for index, labels in enumerate(flow.axes) if index not in reduced]
        if len(output.shape) == rank:
            left = [None if i in reduced else labels for i, labels in enumerate(flow.axes)]
        # Not with an `initial` value of a maximum, say.
        return [Flow(left, answer_to_zeros(node, coupling)[0])]

"""Recurrent layers, whose gates share their units."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph import Node, keras_internals
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules.activations import keeps_zero
from tfcompress.pruning.structured.rules.registry import (
    Rule,
    describe,
    nested_config,
    pinned,
    register,
)

_GATES = {
    layers.SimpleRNNCell: 1,
    layers.GRUCell: 3,
    layers.LSTMCell: 4,
    keras_internals.ConvLSTMCell: 4,
}


def _gates(cell: Any) -> int | None:
    return next((count for kind, count in _GATES.items() if isinstance(cell, kind)), None)


def _bind_cell(node: Node, coupling: Coupling, cell: Any, units: np.ndarray, axis: int) -> None:
    """Bind a cell's weights: `(..., in, gates * units)` and `(..., units, gates * units)`."""
    gates = np.tile(units, _gates(cell) or 1)
    coupling.read(node, cell.kernel, -2, node.inputs[0], axis)
    coupling.bind(node, cell.kernel, -1, gates)
    coupling.bind(node, cell.recurrent_kernel, -2, units)
    coupling.bind(node, cell.recurrent_kernel, -1, gates)
    coupling.bind(node, cell.bias, -1, gates)


def _rests_at_zero(cell: Any) -> bool:
    """Whether the state of a unit whose weights are zero stays zero."""
    # An LSTM applies it to the cell's state too, and its gates only scale what it returns.
    return keeps_zero(cell.activation)


def _tie_states(node: Node, coupling: Coupling, units: np.ndarray, axis: int) -> None:
    """Tie the initial states; pin what lies along other axes, such as the steps."""
    given = node.inputs[0]
    rank = len(given.shape)
    coupling.pin_others(given, (axis % rank,), f"they lie along the steps of {describe(node)}")
    for tensor in node.inputs[1:]:
        if not tensor.is_float:
            coupling.pin_others(tensor, (), f"{describe(node)} reads them as a mask")
            continue
        flow = coupling.flow(tensor)
        coupling.tie(units, flow.axes[axis], f"the initial state of {describe(node)} is fixed")
        if not flow.zero:
            coupling.pin(units, f"the initial state of {describe(node)} is not zero for them")


@register(layers.RNN, keras_internals.ConvLSTM)
class RecurrentRule(Rule):
    """`units` (or filters) go from all gates, from the state and from the output."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Bind the cell; sequence and states have its units."""
        layer = node.operation
        if _gates(layer.cell) is None:
            kind = type(layer.cell).__name__
            return pinned(node, coupling, f"there is no dependency rule for the cell {kind}")
        if layer.stateful:
            return pinned(node, coupling, f"{describe(node)} keeps its state between batches")
        axis = _unit_axis(layer)
        count = layer.cell.recurrent_kernel.shape[-2]
        units = coupling.fresh(node, count, "units")
        _bind_cell(node, coupling, layer.cell, units, axis)
        _tie_states(node, coupling, units, axis)
        zero = _rests_at_zero(layer.cell)
        flows = []
        for output in node.outputs:
            axes: list[Any] = [None] * len(output.shape)
            axes[axis] = units
            flows.append(Flow(axes, zero))
        return flows

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """Units or filters, of a plain `RNN` those in the config of its cell."""
        layer = node.operation
        return _resized(layer, kept.weight(layer.cell.recurrent_kernel, -2))


def _unit_axis(layer: Any) -> int:
    """The axis of units, counted from the end, in sequences and states alike."""
    first = getattr(layer.cell, "data_format", None) == "channels_first"
    return -1 - layer.cell.rank if first else -1


def _resized(layer: Any, units: int) -> dict[str, Any]:
    config = layer.get_config()
    if "cell" in config:
        return {"cell": nested_config(config["cell"], {"units": units})}
    return {"filters" if "filters" in config else "units": units}


@register(layers.Bidirectional)
class BidirectionalRule(Rule):
    """Both directions lose the same units."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Bind both cells to the same units."""
        layer = node.operation
        cells = [layer.forward_layer.cell, layer.backward_layer.cell]
        if any(_gates(cell) is None for cell in cells) or layer.stateful:
            return pinned(node, coupling, f"{describe(node)} has a cell without a dependency rule")
        counts = {cell.recurrent_kernel.shape[-2] for cell in cells}
        if len(counts) > 1:
            return pinned(node, coupling, f"the directions of {describe(node)} differ in width")
        axis = _unit_axis(layer.forward_layer)
        units = coupling.fresh(node, counts.pop(), "units")
        for cell in cells:
            _bind_cell(node, coupling, cell, units, axis)
        _tie_states(node, coupling, units, axis)
        zero = all(_rests_at_zero(cell) for cell in cells)
        both = np.tile(units, 2)
        flows = []
        for index, output in enumerate(node.outputs):
            joined = index == 0 and layer.merge_mode == "concat"
            axes: list[Any] = [None] * len(output.shape)
            axes[axis] = both if joined else units
            flows.append(Flow(axes, zero))
        return flows

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The configs of both directions."""
        layer = node.operation
        config = layer.get_config()
        changed = {}
        for key, direction in (
            ("layer", layer.forward_layer),
            ("backward_layer", layer.backward_layer),
        ):
            units = kept.weight(direction.cell.recurrent_kernel, -2)
            changed[key] = nested_config(config[key], _resized(direction, units))
        return changed

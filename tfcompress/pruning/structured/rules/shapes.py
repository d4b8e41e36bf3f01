"""Operations that rearrange axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.graph import Node
from tfcompress.graph.axes import axes_of
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.labels import Labels
from tfcompress.pruning.structured.rules.registry import Rule, describe, register

Shape = tuple[int | None, ...]


@register("Transpose", "Swapaxes", "Moveaxis", layers.Permute)
class TransposeRule(Rule):
    """Labels move with their axes."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Permute."""
        flow = coupling.flow(node.inputs[0])
        order = self._order(node, len(flow.axes))
        return [Flow([flow.axes[axis] for axis in order], flow.zero)]

    def _order(self, node: Node, rank: int) -> list[int]:
        operation = node.operation
        if isinstance(operation, layers.Permute):
            return [0, *operation.dims]
        order = list(range(rank))
        if node.type_name == "Transpose":
            return order[::-1] if operation.axes is None else [a % rank for a in operation.axes]
        if node.type_name == "Swapaxes":
            first, second = operation.axis1, operation.axis2
            order[first], order[second] = order[second], order[first]
            return order
        # NumPy knows what moving several axes means: its axes are told apart by their sizes.
        sizes = np.empty(tuple(range(1, rank + 1)))
        moved = np.moveaxis(sizes, operation.source, operation.destination)
        return [size - 1 for size in moved.shape]


@register("ExpandDims", "Squeeze")
class UnitAxisRule(Rule):
    """Axes of size 1 come or go."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """The others stay in their order."""
        flow = coupling.flow(node.inputs[0])
        given, wanted = node.inputs[0].shape, node.outputs[0].shape
        axis = node.operation.axis
        if len(wanted) > len(given):
            new = axes_of(axis, len(wanted))
            own = iter(flow.axes)
            return [Flow([None if i in new else next(own) for i in range(len(wanted))], flow.zero)]
        ones = [index for index, size in enumerate(given) if size == 1]
        gone = ones if axis is None else axes_of(axis, len(given))
        for index in gone:
            coupling.pin(flow.axes[index], f"{describe(node)} removes their axis")
        return [Flow([x for i, x in enumerate(flow.axes) if i not in gone], flow.zero)]


@register(layers.Flatten, layers.Reshape, "Reshape", "Ravel")
class ReshapeRule(Rule):
    """Blocks of axes that hold the same elements are matched; each channel becomes a block."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Arrange the labels as the elements are."""
        given, output = node.inputs[0], node.outputs[0]
        flow = coupling.flow(given)
        axes: list[Labels] = [None] * len(output.shape)
        order = list(range(len(given.shape)))
        if _moves_channels(node.operation):
            order = [0, *order[2:], 1]
        shape = tuple(given.shape[axis] for axis in order)
        for before, after in blocks(shape, output.shape):
            sources = [order[axis] for axis in before]
            along = [flow.axes[axis] for axis in sources]
            if all(labels is None for labels in along):
                continue
            sizes = [given.shape[axis] for axis in sources]
            targets = [output.shape[axis] for axis in after]
            arranged = _arranged(node, coupling, along, sizes, targets)
            for axis, labels in zip(after, arranged, strict=True):
                axes[axis] = labels
                coupling.mark(node, axis, labels)
        return [Flow(axes, flow.zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The new shape, with the sizes that are left."""
        operation, output = node.operation, node.outputs[0]
        axes = kept.coupling.flow(output).axes
        if isinstance(operation, layers.Flatten) or all(labels is None for labels in axes):
            return {}
        if isinstance(operation, layers.Reshape):
            key, shape, first = "target_shape", list(operation.target_shape), 1
        elif node.type_name == "Reshape":
            key, shape, first = "newshape", list(operation.newshape), 0
        else:
            return {}
        for index, labels in enumerate(axes[first:]):
            if labels is not None and shape[index] != -1:
                shape[index] = kept.count(labels)
        return {key: tuple(shape)}


def _moves_channels(operation: Any) -> bool:
    """Whether a flattening puts the channels last first."""
    flattens = isinstance(operation, layers.Flatten)
    return flattens and getattr(operation, "data_format", None) == "channels_first"


def blocks(given: Shape, wanted: Shape) -> list[tuple[list[int], list[int]]]:
    """Match axes of two shapes of the same elements, in the smallest blocks, from the last on.

    Args:
        given: A shape whose first axis is the batch.
        wanted: Another.

    Returns:
        Pairs of axes of `given` and of `wanted`. What cannot be matched, because it takes part
        of an axis of no fixed size, is in one last pair.

    Example:

    ```python
    blocks((None, 4, 4, 8), (None, 16, 2, 4))    # [([3], [2, 3]), ([1, 2], [1]), ([0], [0])]
    ```
    """
    pairs: list[tuple[list[int], list[int]]] = []
    left, right = len(given), len(wanted)
    while left or right:
        while left and right:
            # Sizes of 1 belong to no block.
            if given[left - 1] == 1 and wanted[right - 1] != 1:
                left -= 1
            elif wanted[right - 1] == 1 and given[left - 1] != 1:
                right -= 1
            else:
                break
        if not left or not right:
            pairs.append((list(range(left)), list(range(right))))
            break
        left, right = left - 1, right - 1
        before, after = [left], [right]
        sizes = (given[left], wanted[right])
        while None not in sizes and sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:  # type: ignore[operator]
                if not left:
                    break
                left -= 1
                before.insert(0, left)
            else:
                if not right:
                    break
                right -= 1
                after.insert(0, right)
            new = [[given[a] for a in before], [wanted[a] for a in after]]
            sizes = tuple(None if None in x else math.prod(x) for x in new)  # type: ignore[assignment,arg-type]
        if None in sizes and (sizes[0] != sizes[1] or len(before) > 1 or len(after) > 1):
            pairs.append(([*range(left), *before], [*range(right), *after]))
            break
        pairs.append((before, after))
    return pairs


def _arranged(
    node: Node,
    coupling: Coupling,
    along: list[Labels],
    sizes: list[int | None],
    targets: list[int | None],
) -> list[Labels]:
    """The labels along the axes that a block becomes."""
    labelled = [index for index, labels in enumerate(along) if labels is not None]
    labels = along[labelled[0]]
    old = [size for size in sizes if size is not None]
    new = [size for size in targets if size is not None]
    open_axes = len(old) < len(sizes) or len(new) < len(targets)
    if labels is None or open_axes or len(labelled) > 1:
        for mixed in along:
            coupling.pin(mixed, f"{describe(node)} mixes them with other axes")
        return [None] * len(targets)
    if not new:
        coupling.pin(labels, f"{describe(node)} removes their axis")
        return []
    view = [1] * len(old)
    view[labelled[0]] = -1
    table = np.broadcast_to(np.reshape(labels, view), old).reshape(new)
    wide = [index for index, size in enumerate(new) if size != 1]
    if len(wide) <= 1:
        index = wide[0] if wide else 0
        return [table.reshape(-1) if i == index else None for i in range(len(new))]
    # Nothing but whole slices can go from an array: where channels come apart into several axes,
    # the same ones go from every row of the longest, in finer steps than whole rows would.
    constant = [i for i in wide if _varies_only_along(table, i)]
    axis = constant[0] if constant else max(wide, key=lambda i: new[i])
    rows = np.moveaxis(table, axis, 0).reshape(new[axis], -1)
    coupling.tie_rows(rows)
    return [rows[:, 0] if i == axis else None for i in range(len(new))]


def _varies_only_along(table: np.ndarray, axis: int) -> bool:
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    return bool(np.all(rows == rows[:, :1]))


@register("Pad")
class PadRule(Rule):
    """Positions around those of the input, which stay."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Put fixed labels before and after."""
        flow = coupling.flow(node.inputs[0])
        operation = node.operation
        widths = np.broadcast_to(np.asarray(operation.pad_width), (len(flow.axes), 2))
        axes: list[Labels] = []
        for labels, (before, after) in zip(flow.axes, widths.tolist(), strict=True):
            if labels is not None and before + after:
                reason = f"{describe(node)} puts them there"
                if operation.mode != "constant":
                    coupling.pin(labels, f"{describe(node)} repeats them")
                padding = coupling.fixed(before + after, reason)
                labels = np.concatenate([padding[:before], labels, padding[:after]])
            axes.append(labels)
        fill_value = node.kwargs.get("constant_values") or 0
        return [Flow(axes, flow.zero and fill_value == 0)]


@register("Flip", "Roll", "Repeat", "Tile", "BroadcastTo")
class AlongAxesRule(Rule):
    """Moves or repeats elements along axes without channels; pins those with some."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Channels pass where the axis keeps its size and the operation names other axes."""
        given, output = node.inputs[0], node.outputs[0]
        flow = coupling.flow(given)
        rank = len(output.shape)
        touched = axes_of(getattr(node.operation, "axis", ()), rank)
        # A shape among the arguments of the others would have to follow the channels.
        sized = node.type_name == "BroadcastTo"
        for index, labels in enumerate(flow.axes):
            own = index + rank - len(flow.axes)
            resized = own < 0 or output.shape[own] != given.shape[index]
            if sized or resized or own in touched:
                coupling.pin(labels, f"{describe(node)} moves or repeats them")
        if len(flow.axes) != rank:
            return [Flow([None] * rank, False)]
        return [Flow(list(flow.axes), flow.zero)]

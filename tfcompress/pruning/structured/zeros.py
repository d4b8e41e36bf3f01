"""Channels whose weights are zero: finding them, and making them so."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from tfcompress.pruning.structured.coupling import Binding, Role
from tfcompress.pruning.structured.groups import DependencyGroups


def zero_units(groups: DependencyGroups) -> list[int]:
    """The units that have no effect, since all weights that make them are zero.

    Args:
        groups: The groups of a model.

    Returns:
        The units, at most all but one of each group.
    """
    alive = np.zeros(len(groups.roots), bool)
    for binding in groups.bindings:
        if _must_be_zero(binding):
            values = binding.owner.value
            others = binding.others
            used = ops.convert_to_numpy(
                ops.any(values != 0, axis=others) if others else values != 0
            )
            alive[groups.roots[binding.channels[used]]] = True
    found: list[int] = []
    for group in groups.groups:
        units = group.units[~alive[group.units]].tolist()
        found += units if len(units) < group.size else units[1:]
    return found


def channel_masks(
    groups: DependencyGroups, units: Iterable[int], readers: bool = True
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Masks of the weights that make units zero.

    Args:
        groups: The groups of a model.
        units: The units.
        readers: Whether weights that read the channels are masked too; if not, only those that
            would read something else than zero are. Defaults to True.

    Returns:
        Variables, each with a boolean array of its shape, False where the unit's weights are. A
        variable that lies along channels has one even if nothing of it is masked.
    """
    gone = groups.removed(units)
    masks: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for binding in groups.bindings:
        if _must_be_zero(binding) or (readers and binding.role is Role.READS):
            variable = binding.owner
            _, mask = masks.setdefault(id(variable), (variable, np.ones(variable.shape, bool)))
            mask &= binding.broadcast(~gone[binding.channels])
    return list(masks.values())


def zero_channels(groups: DependencyGroups, units: Iterable[int]) -> None:
    """Set the weights that make units to zero, in the model itself."""
    for variable, mask in channel_masks(groups, units, readers=False):
        values = ops.convert_to_numpy(variable.value)
        variable.assign(np.where(mask, values, 0).astype(values.dtype))


def _must_be_zero(binding: Binding) -> bool:
    return binding.role is Role.MAKES or (binding.role is Role.READS and binding.constant)

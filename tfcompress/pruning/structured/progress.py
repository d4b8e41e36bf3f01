"""Advancing the channels of a model to zero along a pruning schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfcompress.pruning.goals import Reached
from tfcompress.pruning.schedules import PruningSchedule
from tfcompress.pruning.structured.cost import Cost
from tfcompress.pruning.structured.coupling import Role
from tfcompress.pruning.structured.criteria import ChannelCriterion
from tfcompress.pruning.structured.goal import ChannelGoal
from tfcompress.pruning.structured.groups import DependencyGroups
from tfcompress.pruning.structured.selection import ChannelSelection
from tfcompress.pruning.structured.zeros import channel_masks, zero_units
from tfcompress.pruning.weight_mask import Mask


class ChannelProgress:
    """Sets masks so that whole channels are zero, as many as a schedule asks for.

    Channels that are zero stay zero. It is to channels what `MaskProgress` is to single weights.

    Args:
        groups: The groups of the model.
        masks: Masks of all weights that have channels.
        goal: What is asked for in the end.
        schedule: The schedule, of the share that has to go.
        criterion: What goes first.
        round_to: What the number of channels left must be a multiple of.
        soft: Whether channels that are to go in the end fade until it is their turn.
        data: Data for the criterion; None if it needs none.

    Attributes:
        faded: Where on the way channels were last faded, in [0, 1]; None before the first time.

    Raises:
        ValueError: If the goal cannot be met, or the schedule cannot rise to it.
    """

    def __init__(
        self,
        groups: DependencyGroups,
        masks: Sequence[Mask],
        goal: ChannelGoal,
        schedule: PruningSchedule,
        criterion: ChannelCriterion,
        round_to: int = 8,
        soft: bool = True,
        data: Any = None,
    ) -> None:
        self.masks = list(masks)
        self.goal = goal
        self._groups = groups
        self._schedule = schedule
        self._criterion = criterion
        self._round_to = round_to
        self._soft = soft
        self._data = data
        self._cost = Cost(groups)
        self._dense = self._cost.figures(np.zeros(len(groups)))
        self._reduction = goal.reduction(self._dense)
        schedule.check(self._reduction)
        self._mask_of = {id(mask.variable): mask for mask in self.masks}
        self._units = self._masked_units()
        self.faded: float | None = None
        # Says at once whether the goal can be met.
        self._selection([np.ones(group.size) for group in groups.groups]).choose(goal)

    @property
    def units(self) -> list[int]:
        """The units that are zero."""
        return sorted(self._units)

    def open_excess(self) -> list[str]:
        """Reopen the masks if they prune more than is asked for, left by an earlier training.

        Returns:
            Names of the weights whose masks were opened.
        """
        if not self._units:
            return []
        ones = [np.ones(group.size) for group in self._groups.groups]
        wanted = self._selection(ones).choose(self.goal)
        if self._value(self._units) >= self._value(wanted):
            return []
        opened = [mask.name for mask in self.masks if mask.pruned]
        self._set(())
        return opened

    def advance(self, progress: float) -> bool:
        """Set as many channels to zero as the schedule asks at this point.

        Args:
            progress: Share of the way from begin to end, in [0, 1]; 1 is the goal.

        Returns:
            Whether a channel was added.

        Raises:
            ValueError: If the schedule returns a share outside [0, 1).
        """
        before = self._units
        selection = self._selection(self._criterion.normalized(self._groups, self._data))
        limit = self._limit(progress)
        final = limit <= self.goal.limit(self._dense)
        chosen = selection.choose(self.goal, limit, final=final)
        self._set(before.union(chosen))
        if self._soft and progress < 1:
            self._fade(set(selection.choose(self.goal)) - self._units, progress)
        for mask in self.masks:
            mask.apply()
        return self._units != before

    def advance_to_zeros(self, progress: float) -> None:
        """Take channels that are zero already for pruned, and advance at least to the schedule."""
        self._set(self._units.union(zero_units(self._groups)))
        self.advance(progress)

    def adopt_zeros(self) -> bool:
        """Take channels that are zero already for pruned; return whether there are any.

        For a model that was pruned, saved and loaded. A layer of nothing but zeros was not pruned.
        """
        zero = set(zero_units(self._groups))
        for group in self._groups.groups:
            if len(zero.intersection(group.units.tolist())) >= group.size - 1:
                zero.difference_update(group.units.tolist())
        self._set(self._units.union(zero))
        return bool(zero)

    def has_zeros_of(self, progress: float) -> bool:
        """Whether the weights look as if the schedule had already come this far."""
        found = zero_units(self._groups)
        dense = self.goal.value(self._dense)
        # Half is enough: a file may be from some steps before.
        return bool(found) and dense - self._value(found) >= (dense - self._limit(progress)) / 2

    def is_complete(self) -> bool:
        """Whether the goal is met."""
        return self._value(self._units) <= self.goal.limit(self._dense)

    def reached(self) -> Reached:
        """What the masks amount to now: what a shrunken model would have."""
        asked = self.goal.limit(self._dense)
        return Reached(self.goal.name, asked, self._value(self._units), self.channel_sparsity())

    def channel_sparsity(self) -> float:
        """Share of the channels that are zero, of those that can go."""
        return len(self._units) / max(1, self._dense.channels)

    def figure(self) -> int:
        """What a shrunken model would have of what the goal is about."""
        return self._value(self._units)

    def _selection(self, scores: Sequence[np.ndarray]) -> ChannelSelection:
        # What is zero already goes first.
        sticky = [
            np.where([unit in self._units for unit in group.units.tolist()], -1.0, values)
            for group, values in zip(self._groups.groups, scores, strict=True)
        ]
        return ChannelSelection(self._groups, sticky, self._round_to, self._cost)

    def _limit(self, progress: float) -> float:
        if progress >= 1:
            return self.goal.limit(self._dense)
        share = self._schedule(progress, self._reduction)
        if not 0 <= share < 1:
            raise ValueError(
                f"{self._schedule!r} must return shares of at least 0 and below 1. "
                f"Received: {share!r} at progress {progress}"
            )
        return self.goal.value(self._dense) * (1 - min(share, self._reduction))

    def _value(self, units: Iterable[int]) -> int:
        return self.goal.value(self._cost.figures(self._groups.counts(units)))

    def _set(self, units: Iterable[int]) -> None:
        self._units = set(units)
        for variable, value in channel_masks(self._groups, self._units):
            self._mask_of[id(variable)].assign(value, int(value.size - np.count_nonzero(value)))

    def _masked_units(self) -> set[int]:
        """The units all of whose weights are masked."""
        kept = np.zeros(len(self._groups.roots), bool)
        for binding in self._groups.bindings:
            mask = self._mask_of.get(id(binding.owner))
            if mask is not None and binding.role is Role.MAKES:
                used = np.any(mask.numpy(), axis=binding.others)
                kept[self._groups.roots[binding.channels[used]]] = True
        every = (unit for group in self._groups.groups for unit in group.units.tolist())
        return {unit for unit in every if not kept[unit]}

    def _fade(self, doomed: set[int], progress: float) -> None:
        """Scale weights down in step with the time that is left to them."""
        earlier, self.faded = self.faded, progress
        if not doomed or earlier is None or earlier >= progress:
            return
        factor = (1 - progress) / (1 - earlier)
        fading = self._groups.removed(doomed)
        for binding in self._groups.bindings:
            variable = binding.owner
            if binding.role is not Role.MAKES or not variable.trainable:
                continue
            along = fading[binding.channels]
            if along.any():
                scale = binding.broadcast(np.where(along, factor, 1.0))
                value = variable.value
                variable.assign(value * ops.cast(scale, value.dtype))

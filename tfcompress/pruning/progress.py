"""Advancing the masks of a model along a pruning schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from tfcompress.pruning.criteria import Criterion, Magnitude, Measurement, Units
from tfcompress.pruning.goals import TOLERANCE, Goal, Outcome, Reached, solve
from tfcompress.pruning.layouts import stored_layout
from tfcompress.pruning.masks import (
    count_true,
    lowest_removed,
    lowest_removed_by_size,
    mask_of_zeros,
)
from tfcompress.pruning.patterns import Pattern, Unstructured
from tfcompress.pruning.schedules import PruningSchedule
from tfcompress.pruning.scopes import Room, Scope, UniformScope
from tfcompress.pruning.weight_mask import Mask


class MaskProgress:
    """Sets masks to the sparsity that a schedule asks for.

    Sparsity never falls, and the number of pruned weights is exact, or as near as whole blocks and
    channels come. Pruned weights stay pruned, unless their masks train them along: then all
    compete anew at every update.

    Args:
        masks: The masks to advance.
        goal: What is asked for in the end.
        schedule: The schedule.
        scope: How the sparsity is shared out among the masks.
        criterion: What goes first. Defaults to None: the smallest magnitudes.
        pattern: Which weights go together. Defaults to None: each by itself.
        measurement: What reads the values of channels, for criteria that need them.
        shares: Sparsity that the user wants in each mask's weight, for scopes that use them.
    """

    def __init__(
        self,
        masks: Sequence[Mask],
        goal: Goal,
        schedule: PruningSchedule,
        scope: Scope | None = None,
        criterion: Criterion | None = None,
        pattern: Pattern | None = None,
        measurement: Measurement | None = None,
        shares: Sequence[float | None] | None = None,
    ) -> None:
        self.masks = list(masks)
        self.goal = goal
        self.schedule = schedule
        self.criterion = criterion or Magnitude()
        self.pattern = pattern or Unstructured()
        self._scope = scope or UniformScope()
        self._measurement = measurement
        self._layouts = [stored_layout(mask.layer, mask.variable) for mask in self.masks]
        shapes = [tuple(mask.variable.shape) for mask in self.masks]
        self._members = [
            self.pattern.members(layout, shape) for layout, shape in zip(self._layouts, shapes)
        ]
        most = [
            self.pattern.most(mask.size // members) * members
            for mask, members in zip(self.masks, self._members)
        ]
        own = shares or [None] * len(self.masks)
        self._rooms = [Room(*entry) for entry in zip(shapes, most, own)]
        self._sparsity = goal.sparsity()

    @property
    def sparsity(self) -> float:
        """The final sparsity, as far as it is known by now."""
        if self._sparsity is None:
            self._steer()
        return self._sparsity or 0.0

    def open_excess(self) -> list[str]:
        """Reopen masks that prune more than the final sparsity, left by an earlier training.

        Returns:
            Names of the weights whose masks were opened. Their zeros are the first to be pruned
            again, as far as the final sparsity goes.
        """
        opened: list[str] = []
        if self.goal.sparsity() is None:
            if self._measured() >= self.goal.asked * (1 - TOLERANCE):
                return opened
            excess = [tuple(range(len(self.masks)))]
        else:
            excess = [
                group
                for group, count in self._scope.shares(self._rooms, self.sparsity)
                if self._pruned(group) > count + self._rounding(group)
            ]
        for group in excess:
            for mask in (self.masks[index] for index in group):
                mask.assign(np.ones(mask.variable.shape, bool), 0)
                opened.append(mask.name)
        return opened

    def advance(self, progress: float) -> bool:
        """Prune as far as the schedule asks at this point, and zero what is pruned.

        Args:
            progress: Share of the way from begin to end, in [0, 1]; 1 is the final sparsity.

        Returns:
            Whether a mask changed.

        Raises:
            ValueError: If the schedule returns a sparsity outside [0, 1), the weights are NaN, no
                gradients were seen that the criterion needs, or the goal cannot be reached.
        """
        self.goal.is_final = progress >= 1.0
        if self.goal.sparsity() is None:
            self._steer()
        return self.advance_to(self._scheduled(progress))

    def advance_to(self, sparsity: float) -> bool:
        """Prune up to a sparsity, and zero what is pruned. See `advance`."""
        outcomes = self.preview(sparsity)
        changed = [outcome for outcome in outcomes if outcome.value is not _SAME]
        for outcome in changed:
            outcome.mask.exchange(outcome.value, outcome.pruned)
        for mask in self.masks:
            mask.apply()
        return bool(changed)

    def preview(self, sparsity: float, criterion: Criterion | None = None) -> list[Outcome]:
        """The masks that a sparsity would set, without setting them.

        Args:
            sparsity: Share of the weights to prune.
            criterion: Another criterion. Defaults to None: that of the pruning.
        """
        outcomes = {
            index: Outcome(mask, _SAME, mask.pruned) for index, mask in enumerate(self.masks)
        }
        values = None
        for group, count in self._scope.shares(self._rooms, sparsity):
            regrows = any(self.masks[index].dense is not None for index in group)
            if count <= self._pruned(group) + self._rounding(group):
                if not regrows or not self._pruned(group):
                    continue
                count = self._pruned(group)
            if values is None and self._measurement is not None and criterion is None:
                values = self._measurement.read()
            outcomes.update(self._selected(group, count, criterion or self.criterion, values or {}))
        return [outcomes[index] for index in range(len(self.masks))]

    def advance_to_zeros(self, progress: float) -> None:
        """Prune the weights that are zero already, and at least what the schedule asks for.

        For a training that goes on from a file without masks: there the zeros are the masks.
        """
        final = self._scope.shares(self._rooms, self.sparsity)
        now = self._scope.shares(self._rooms, self._scheduled(progress))
        for (group, most), (_, scheduled) in zip(final, now, strict=True):
            zeros = sum(self.masks[index].zeros() for index in group)
            count = max(scheduled, min(zeros, most))
            if count > self._pruned(group):
                # By magnitude, whatever the criterion: what is zero is the mask.
                for outcome in self._selected(group, count, Magnitude(), {}).values():
                    outcome.mask.assign(outcome.value, outcome.pruned)
        for mask in self.masks:
            mask.apply()

    def adopt_zeros(self) -> bool:
        """Take the zeros of weights that look pruned for masks; return whether there are any.

        For a model that was pruned, saved and loaded.
        """
        found = False
        for mask in self.masks:
            value = mask_of_zeros(mask.variable.value)
            if value is not None:
                mask.assign(value)
                found = True
        return found

    def has_zeros_of(self, progress: float) -> bool:
        """Whether the weights look as if the schedule had already come this far.

        Half of the zeros is enough: a file may be from some steps before.
        """
        shares = self._scope.shares(self._rooms, self._scheduled(progress))
        expected = sum(count for _, count in shares)
        return sum(mask.zeros() for mask in self.masks) >= max(1, expected // 2)

    def is_complete(self) -> bool:
        """Whether the masks prune as much as was asked for in the end."""
        if self.goal.sparsity() is None:
            return self._measured() <= self.goal.asked * (1 + TOLERANCE)
        return all(
            self._pruned(group) + self._rounding(group) >= count
            for group, count in self._scope.shares(self._rooms, self.sparsity)
        )

    def reached(self) -> Reached:
        """What the masks amount to now."""
        size = sum(mask.size for mask in self.masks)
        pruned = sum(mask.pruned for mask in self.masks)
        return Reached(self.goal.name, self.goal.asked, self._measured(), pruned / size)

    def _measured(self) -> float:
        return self.goal.measure(
            [Outcome(mask, mask.value.value, mask.pruned) for mask in self.masks]
        )

    def _steer(self) -> None:
        size = sum(mask.size for mask in self.masks)
        low = sum(mask.pruned for mask in self.masks) / size
        try:
            self._sparsity = solve(self.goal, self._measurable, low, self._sparsity)
        except NoGradientsError:
            # Nothing is pruned before there are gradients; until then magnitudes are a fair guess.
            self._sparsity = solve(
                self.goal, lambda s: self._measurable(s, Magnitude()), low, self._sparsity
            )

    def _measurable(self, sparsity: float, criterion: Criterion | None = None) -> list[Outcome]:
        return [
            replace(o, value=o.mask.value.value) if o.value is _SAME else o
            for o in self.preview(sparsity, criterion)
        ]

    def _selected(
        self, group: Sequence[int], count: int, criterion: Criterion, values: dict[int, Any]
    ) -> dict[int, Outcome]:
        """Outcomes of pruning `count` weights in some masks together."""
        scores, kept = [], []
        for index in group:
            units = self._units(index, criterion, values)
            scores.append(self.pattern.protect(criterion.scores(units), units.kept))
            kept.append(units.kept)
        members = [self._members[index] for index in group]
        if len(set(members)) == 1:
            masks, _ = lowest_removed(scores, kept, round(count / members[0]))
        else:
            masks, _ = lowest_removed_by_size(scores, kept, members, count)
        found = {}
        for index, units_kept in zip(group, masks, strict=True):
            mask = self.masks[index]
            shape = tuple(mask.variable.shape)
            value = self.pattern.restore(units_kept, self._layouts[index], shape)
            if mask.dense is None:
                # What another pattern pruned before stays pruned.
                value = ops.logical_and(value, mask.value.value)
            found[index] = Outcome(mask, value, mask.size - count_true(value))
        return found

    def _units(self, index: int, criterion: Criterion, values: dict[int, Any]) -> Units:
        mask, layout = self.masks[index], self._layouts[index]
        weights = self.pattern.arrange(mask.values(), layout)
        open_to = mask.value.value if mask.dense is None else ops.ones_like(mask.value.value)
        kept = self.pattern.arrange(open_to, layout)
        kept = ops.reshape(kept, (-1,)) if kept.shape[1] == 1 else ops.any(kept, axis=1)
        evidence = None
        if criterion.uses_gradients:
            if mask.evidence is None or not bool(ops.any(mask.evidence.value != 0)):
                raise NoGradientsError(
                    f"{criterion!r} needs gradients to score {mask.name!r} by, but no training "
                    "step has given it any yet. Let the pruning begin later (`begin=0.1`) or start "
                    "from a sparsity of 0; a layer that gets no gradients belongs in `exclude`."
                )
            evidence = self.pattern.arrange(mask.evidence.value, layout)
        return Units(weights, kept, index, evidence, values.get(id(mask.variable)))

    def _scheduled(self, progress: float) -> float:
        if progress >= 1.0:
            return self.sparsity
        sparsity = self.schedule(progress, self.sparsity)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"{self.schedule!r} must return sparsities of at least 0 and below 1. "
                f"Received: {sparsity!r} at progress {progress}"
            )
        # A schedule of the user's own may overshoot; sparsity could not fall again.
        return min(sparsity, self.sparsity)

    def _pruned(self, group: Sequence[int]) -> int:
        return sum(self.masks[index].pruned for index in group)

    def _rounding(self, group: Sequence[int]) -> int:
        """How far whole units may leave a group from the number that is asked for."""
        return max(self._members[index] for index in group) // 2


class NoGradientsError(ValueError):
    """A criterion without the gradients that it needs."""


# Stands for "the mask as it is", which need not be assigned.
_SAME = object()

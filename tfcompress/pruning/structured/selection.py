"""Choosing the channels to remove: the least important of all groups, until a goal is met."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfcompress.pruning.structured.cost import Cost, Figures
from tfcompress.pruning.structured.goal import ChannelGoal
from tfcompress.pruning.structured.groups import DependencyGroups

# How many groups are tried for the last steps, and how many steps of each.
_CANDIDATES = 8
_DEPTH = 3
# Nearer to a limit than this share of it, no better choice is looked for.
_NEAR = 0.005
_ROUNDS = 8


@dataclass(frozen=True)
class _Step:
    """A group goes from one allowed size to the next.

    Attributes:
        score: Mean score of the units that go with it.
        group: Number of the group.
        count: How many units go.
        end: How many of the group are gone then.
    """

    score: float
    group: int
    count: int
    end: int


class ChannelSelection:
    """Ranks the channels of all groups together.

    Args:
        groups: The groups of a model.
        scores: Importance of the units of each group, comparable between groups; each of shape
            (size of the group,).
        round_to: What the number of channels left in a group must be a multiple of.
    """

    def __init__(
        self,
        groups: DependencyGroups,
        scores: Sequence[np.ndarray],
        round_to: int = 1,
        cost: Cost | None = None,
    ) -> None:
        self._groups = groups
        self._orders = [np.argsort(values, kind="stable") for values in scores]
        self._cost = Cost(groups) if cost is None else cost
        steps = []
        for number, (group, order) in enumerate(zip(groups.groups, self._orders, strict=True)):
            sizes = group.sizes(round_to)
            for before, after in itertools.pairwise(sizes):
                gone = order[group.size - before : group.size - after]
                steps.append(
                    _Step(
                        float(scores[number][gone].mean()),
                        number,
                        before - after,
                        group.size - after,
                    )
                )
        # Stable: within a group, steps stay in their order.
        self._steps = sorted(steps, key=lambda step: step.score)

    @property
    def dense(self) -> Figures:
        """The figures with nothing removed."""
        return self._cost.figures(np.zeros(len(self._groups.groups)))

    def choose(
        self, goal: ChannelGoal, limit: float | None = None, final: bool = True
    ) -> list[int]:
        """Choose the least important units, as many as a goal asks for.

        Args:
            goal: The goal.
            limit: Another limit of the figure that the goal is about. Defaults to None: the
                goal's own.
            final: Whether the limit must not be exceeded, but met as nearly as can be; if not, as
                many units are chosen as leave it exceeded. Defaults to True.

        Returns:
            The units to remove.

        Raises:
            ValueError: If the goal cannot be met.
        """
        wanted = goal.limit(self.dense) if limit is None else limit
        low, high = 0, len(self._steps)
        if self._value(goal, self._counts(high)) > wanted:
            self._refuse(goal, wanted)
        while low < high:
            middle = (low + high) // 2
            if self._value(goal, self._counts(middle)) <= wanted:
                high = middle
            else:
                low = middle + 1
        # Of `low` steps the last one meets the limit, and may go far below.
        counts = self._counts(max(0, low - 1))
        if final and low:
            counts = self._finish(goal, wanted, counts)
        return self.units(counts)

    def _finish(self, goal: ChannelGoal, wanted: float, counts: np.ndarray) -> np.ndarray:
        """Take a few more steps of any one group, and give back what then need not have gone.

        Again and again as long as that comes nearer to the limit.

        Args:
            goal: The goal.
            wanted: The limit.
            counts: Units to remove of each group, which one step more makes meet the limit.

        Returns:
            Counts that meet the limit as nearly as was found.
        """
        best, nearest = counts, -1
        for _ in range(_ROUNDS):
            found = None
            for step in self._next_steps(best):
                tried = best.copy()
                tried[step.group] = step.end
                if self._value(goal, tried) <= wanted:
                    self._give_back(goal, wanted, tried, step.group)
                    value = self._value(goal, tried)
                    if value > nearest:
                        found, nearest = tried, value
            if found is None:
                break
            best = found
            if nearest >= wanted * (1 - _NEAR):
                break
        return best

    def _next_steps(self, counts: np.ndarray) -> list[_Step]:
        """The next steps of each group, for as many groups as are tried."""
        found: dict[int, list[_Step]] = {}
        for step in self._steps:
            if step.end > counts[step.group] and len(found) < _CANDIDATES:
                found.setdefault(step.group, []).append(step)
        return [step for steps in found.values() for step in steps[:_DEPTH]]

    def _give_back(self, goal: ChannelGoal, wanted: float, counts: np.ndarray, last: int) -> None:
        """Undo steps where the limit allows it, the most important first; not of one group."""
        settled = {last}
        for step in reversed(self._steps):
            # What is zero already, and so has a score below 0, stays so.
            if step.end != counts[step.group] or step.group in settled or step.score < 0:
                continue
            counts[step.group] -= step.count
            if self._value(goal, counts) > wanted:
                counts[step.group] += step.count
                settled.add(step.group)

    def units(self, counts: np.ndarray) -> list[int]:
        """The least important units of each group, so many of each."""
        found: list[int] = []
        for group, order, count in zip(self._groups.groups, self._orders, counts, strict=True):
            found += group.units[order[: int(count)]].tolist()
        return found

    def _counts(self, steps: int) -> np.ndarray:
        counts = np.zeros(len(self._groups.groups), int)
        for step in self._steps[:steps]:
            counts[step.group] += step.count
        return counts

    def _value(self, goal: ChannelGoal, counts: np.ndarray) -> int:
        return goal.value(self._cost.figures(counts))

    def _refuse(self, goal: ChannelGoal, wanted: float) -> None:
        least = self._value(goal, self._counts(len(self._steps)))
        pinned = "; ".join(
            f"{entry.count} {entry.word} of '{entry.layer}': {entry.reason}"
            for entry in self._groups.pinned[:4]
        )
        figure = "channels" if goal.name == "sparsity" else goal.name
        raise ValueError(
            f"The goal {goal.name}={goal.amount!r} cannot be met: with as much removed as can be, "
            f"{least:,} of {goal.value(self.dense):,} {figure} are left, and {wanted:,.0f} are "
            "wanted. Lower `round_to`, take less in `exclude`, or ask for less. "
            f"What cannot go: {pinned or 'nothing'}"
        )

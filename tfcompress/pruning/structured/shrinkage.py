"""What a model was before and after channels were removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import keras
import numpy as np

from tfcompress.pruning.structured.cost import Cost, Figures
from tfcompress.pruning.structured.goal import ChannelGoal
from tfcompress.pruning.structured.groups import DependencyGroups, PinnedChannels

_ATTRIBUTE = "_tfcompress_shrinkage"


@dataclass(frozen=True)
class Shrinkage:
    """What `shrink` reached. Prints as a short table.

    Attributes:
        model: Name of the model.
        before: Figures of the dense model.
        after: Figures of the smaller one.
        groups: Name, size before and size after of every group.
        pinned: What could not go.
        goal: What was asked for; None if zero channels were removed.
        units: What was removed, as labels in the `DependencyGroups` of the dense model.
    """

    model: str
    before: Figures
    after: Figures
    groups: tuple[tuple[str, int, int], ...]
    pinned: tuple[PinnedChannels, ...]
    goal: ChannelGoal | None
    units: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(
        cls, groups: DependencyGroups, units: Iterable[int], cost: Cost, goal: ChannelGoal | None
    ) -> Shrinkage:
        """What removing some units does.

        Args:
            groups: The groups of the dense model.
            units: The units that go.
            cost: The cost of the model.
            goal: What was asked for.
        """
        units = tuple(units)
        counts = groups.counts(units)
        return cls(
            groups.model.name,
            cost.figures(np.zeros(len(counts))),
            cost.figures(counts),
            tuple((g.name, g.size, g.size - n) for g, n in zip(groups.groups, counts)),
            groups.pinned,
            goal,
            units,
        )

    def __str__(self) -> str:
        rows = [
            (name, getattr(self.before, name), getattr(self.after, name))
            for name in ("parameters", "macs", "bytes", "channels")
        ]
        asked = "" if self.goal is None else f" to {self.goal.name}={self.goal.amount:g}"
        shrunk = sum(after < before for _, before, after in self.groups)
        lines = [f"Shrunk '{self.model}'{asked}: {shrunk} of {len(self.groups)} groups of channels"]
        for name, before, after in rows:
            share = after / before if before else 1.0
            lines.append(f"  {name:<10} {before:>15,} → {after:>15,}  ({share:.1%})")
        return "\n".join(lines)


def attach_shrinkage(model: keras.Model, shrinkage: Shrinkage) -> None:
    """Let a model know how it was made smaller."""
    setattr(model, _ATTRIBUTE, shrinkage)


def find_shrinkage(model: keras.Model) -> Shrinkage | None:
    """What `shrink` reached when it made a model.

    Args:
        model: A Keras model.

    Returns:
        The figures; None if the model was not made by `shrink` in this process.
    """
    return getattr(model, _ATTRIBUTE, None)

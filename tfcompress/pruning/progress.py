"""Advancing the masks of a model along a pruning schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfcompress.pruning.criteria import Criterion, Magnitude
from tfcompress.pruning.masks import pruned_count, smallest_masks
from tfcompress.pruning.schedules import PruningSchedule
from tfcompress.pruning.state import Mask

SCOPES = ("global", "uniform")


class MaskProgress:
    """Sets masks to the sparsity that a schedule asks for.

    Pruned weights stay pruned: sparsity never falls, and the number of pruned weights is exact.

    Args:
        masks: The masks to advance.
        sparsity: Final sparsity, in [0, 1).
        schedule: The schedule.
        scope: `"global"`: the smallest weights of all masked tensors together; `"uniform"`: the
            same share of each tensor.
        criterion: What is small. Defaults to None: the magnitude.
    """

    def __init__(
        self,
        masks: Sequence[Mask],
        sparsity: float,
        schedule: PruningSchedule,
        scope: str,
        criterion: Criterion | None = None,
    ) -> None:
        self.masks = list(masks)
        self.sparsity = sparsity
        self.schedule = schedule
        self.criterion = criterion or Magnitude()
        self._index = {id(mask): index for index, mask in enumerate(self.masks)}
        self._groups = [self.masks] if scope == "global" else [[mask] for mask in self.masks]

    def open_excess(self) -> list[str]:
        """Reopen masks that prune more than the final sparsity, left by an earlier training.

        Returns:
            Names of the weights whose masks were opened. Their zeros are the first to be pruned
            again, as far as the final sparsity goes.
        """
        opened = []
        for group in self._groups:
            if _pruned(group) > _count(group, self.sparsity):
                for mask in group:
                    mask.assign(np.ones(mask.variable.shape, bool), 0)
                opened += [mask.name for mask in group]
        return opened

    def advance(self, progress: float) -> bool:
        """Prune as far as the schedule asks at this point, and zero what is pruned.

        Args:
            progress: Share of the way from begin to end, in [0, 1]; 1 is the final sparsity.

        Returns:
            Whether a mask changed.

        Raises:
            ValueError: If the schedule returns a sparsity outside [0, 1), or the weights are NaN.
        """
        return self.advance_to(self._scheduled(progress))

    def advance_to(self, sparsity: float) -> bool:
        """Prune up to a sparsity, and zero what is pruned. See `advance`."""
        changed = False
        for group in self._groups:
            count = _count(group, sparsity)
            if count > _pruned(group):
                current = [mask.value.value for mask in group]
                masks, pruned = smallest_masks(self._scores(group), current, count)
                for mask, value, number in zip(group, masks, pruned):
                    mask.assign(value, number)
                changed = True
        for mask in self.masks:
            mask.apply()
        return changed

    def advance_to_zeros(self, progress: float) -> None:
        """Prune the weights that are zero already, and at least what the schedule asks for.

        For a training that goes on from a file without masks: there the zeros are the masks.
        """
        scheduled = self._scheduled(progress)
        for group in self._groups:
            zeros = sum(mask.zeros() for mask in group)
            reached = min(zeros / _size(group), self.sparsity)
            # By magnitude, whatever the criterion: what is zero is the mask.
            MaskProgress(group, self.sparsity, self.schedule, "global").advance_to(
                max(scheduled, reached)
            )

    def has_zeros_of(self, progress: float) -> bool:
        """Whether the weights look as if the schedule had already come this far.

        Half of the zeros is enough: a file may be from some steps before.
        """
        expected = sum(_count(group, self._scheduled(progress)) for group in self._groups)
        return sum(mask.zeros() for mask in self.masks) >= max(1, expected // 2)

    def is_complete(self) -> bool:
        """Whether the masks prune as much as the final sparsity asks."""
        return all(_pruned(group) >= _count(group, self.sparsity) for group in self._groups)

    def _scores(self, group: Sequence[Mask]) -> list[Any]:
        return [
            self.criterion.scores(mask.variable.value, mask.value.value, self._index[id(mask)])
            for mask in group
        ]

    def _scheduled(self, progress: float) -> float:
        if progress >= 1.0:
            return self.sparsity
        sparsity = self.schedule(progress, self.sparsity)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"{self.schedule!r} must return sparsities of at least 0 and below 1. "
                f"Received: {sparsity!r} at progress {progress}"
            )
        # A schedule of the user's own may overshoot; pruned weights could not come back.
        return min(sparsity, self.sparsity)


def _count(group: Sequence[Mask], sparsity: float) -> int:
    return pruned_count([mask.size for mask in group], sparsity)


def _pruned(group: Sequence[Mask]) -> int:
    return sum(mask.pruned for mask in group)


def _size(group: Sequence[Mask]) -> int:
    return sum(mask.size for mask in group)

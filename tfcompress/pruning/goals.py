"""What a pruning is steered to: a sparsity, parameters, bytes, gzip bytes or MACs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.graph import flatten
from tfcompress.graph.macs import axis_size, products_of, rows_of
from tfcompress.pruning.weight_mask import Mask

# Goals that are measured count as met this near, relative to what was asked.
TOLERANCE = 0.02
# The search for the sparsity that meets a goal stops this near.
_SEARCH_TOLERANCE = 0.001
_SEARCH_STEPS = 16


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a mask would be.

    Attributes:
        mask: The mask.
        value: Boolean tensor of the weight's shape.
        pruned: How many entries are False.
    """

    mask: Mask
    value: Any
    pruned: int


@dataclass(frozen=True)
class Reached:
    """What a pruning reached.

    Attributes:
        goal: What was asked for, such as `"parameters"`.
        asked: How much of it.
        reached: How much there is. For `"gzip_bytes"` an estimate of the int8 file.
        sparsity: Share of zeros in the weights that were pruned.
    """

    goal: str
    asked: float
    reached: float
    sparsity: float

    @property
    def error(self) -> float:
        """Distance to what was asked, relative to it."""
        return (self.reached - self.asked) / self.asked if self.asked else self.reached

    def __str__(self) -> str:
        asked, reached = (f"{v:,.0f}" if v > 1 else f"{v:.4f}" for v in (self.asked, self.reached))
        return (
            f"{self.goal}: asked for {asked}, reached {reached} ({self.error:+.1%}); "
            f"sparsity of the pruned weights {self.sparsity:.4f}"
        )


class Goal(ABC):
    """Base class of goals.

    Args:
        asked: How much the user asks for.

    Attributes:
        name: Name of the argument.
        drifts: Whether fine-tuning moves it though the masks stay.
        is_final: Whether the masks about to be set are the last ones, for goals that measure then
            with more care.
    """

    name = ""
    drifts = False

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.is_final = False

    @abstractmethod
    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Look at the model before the training.

        Raises:
            ValueError: If it cannot be pruned that far.
        """

    @abstractmethod
    def sparsity(self) -> float | None:
        """The sparsity of the weights that meets the goal; None if that has to be measured."""

    @abstractmethod
    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """How much there would be with some masks."""


class SparsityGoal(Goal):
    """A share of zeros in the weights that are pruned."""

    name = "sparsity"

    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Nothing to look at."""

    def sparsity(self) -> float:
        """What was asked for."""
        return self.asked

    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """The share of zeros."""
        size = sum(outcome.mask.size for outcome in outcomes)
        return sum(outcome.pruned for outcome in outcomes) / size if size else 0.0


class ParameterGoal(Goal):
    """A number of parameters of the whole model that are not pruned, as `count_params` counts."""

    name = "parameters"

    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Count what there is."""
        self._total = model.count_params()
        self._prunable = sum(mask.size for mask in masks)
        least = self._total - self._prunable + len(masks)
        if self.asked < least:
            raise ValueError(
                f"The model cannot be pruned to {self.asked:,.0f} parameters: of {self._total:,}, "
                f"{self._total - self._prunable:,} are biases, normalization and others that are "
                f"not pruned. At least {least:,} stay. Received: parameters={self.asked}"
            )

    def sparsity(self) -> float:
        """The share that has to go."""
        return max(0.0, (self._total - self.asked) / self._prunable)

    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """All parameters but the pruned ones."""
        return self._total - sum(outcome.pruned for outcome in outcomes)


class MeasuredGoal(Goal):
    """A goal whose sparsity is not known beforehand."""

    def sparsity(self) -> None:
        """It depends on where the zeros are."""


class BytesGoal(MeasuredGoal):
    """Bytes of the int8 weights when pruned ones are stored as a bitmap and the rest.

    A pruned tensor takes one bit an entry and one byte an entry that is not zero, or one byte an
    entry where that is less; every other weight takes 4 bytes, as biases do. LiteRT has no such
    encoding: this is the size of what compression has to carry, not that of the `.tflite` file,
    which zeros do not make smaller.
    """

    name = "bytes"

    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Count what is not pruned."""
        self._rest = 4 * (model.count_params() - sum(mask.size for mask in masks))

    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """The sum over all tensors."""
        return self._rest + sum(
            min(o.mask.size, math.ceil(o.mask.size / 8) + o.mask.size - o.pruned) for o in outcomes
        )


class MacsGoal(MeasuredGoal):
    """Multiplications by weights that are not zero, of one sample; 1 or less is a share of all.

    LiteRT does not skip zeros: only channels that are taken out (`tfcompress.shrink`) save time.
    """

    name = "macs"

    def bind(self, model: keras.Model, masks: Sequence[Mask]) -> None:
        """Count the multiplications of each weight."""
        known = {id(mask.variable) for mask in masks}
        self._rest = 0
        self._of: dict[int, int] = dict.fromkeys(known, 0)
        for node, rows in rows_of(flatten(model)).items():
            for product in products_of(node):
                count = rows * math.prod(map(axis_size, product))
                used = {id(source) for source, _ in product} & known
                for key in used:
                    self._of[key] += count
                self._rest += 0 if used else count
        self._total = self._rest + sum(self._of.values())
        if not self._total:
            raise ValueError("The model multiplies by no weights, so `macs` says nothing.")

    def measure(self, outcomes: Sequence[Outcome]) -> float:
        """Each weight's multiplications, times its density."""
        count = self._rest + sum(
            self._of[id(o.mask.variable)] * (1 - o.pruned / o.mask.size) for o in outcomes
        )
        return count / self._total if self.asked <= 1 else count


def solve(
    goal: Goal, preview: Callable[[float], Sequence[Outcome]], low: float, guess: float | None
) -> float:
    """Find the sparsity that meets a goal.

    Args:
        goal: The goal, of which there is less at higher sparsities.
        preview: The masks that a sparsity would set.
        low: The present sparsity.
        guess: Where the answer is expected; None if that is not known.

    Returns:
        The sparsity, not below `low`.

    Raises:
        ValueError: If no sparsity meets the goal.
    """
    high = 1.0
    at_low = goal.measure(preview(low)) - goal.asked
    tolerance = _SEARCH_TOLERANCE * goal.asked
    if at_low <= tolerance:
        return low
    at_high = None
    value = guess if guess is not None and low < guess < high else (low + high) / 2
    for step in range(_SEARCH_STEPS):
        error = goal.measure(preview(value)) - goal.asked
        if abs(error) <= tolerance:
            return value
        if error > 0:
            low, at_low = value, error
        else:
            high, at_high = value, error
        if at_high is None:
            at_high = goal.measure(preview(high)) - goal.asked
            if at_high > tolerance:
                raise ValueError(
                    f"Pruning alone cannot reach this: with as few weights as possible there are "
                    f"{goal.asked + at_high:,.2f} left. Received: {goal.name}={goal.asked:,}"
                )
        # Straight lines find it fast, halving now and then makes sure.
        share = at_low / (at_low - at_high) if step % 3 < 2 else 0.5
        value = low + (high - low) * min(0.95, max(0.05, share))
    return high

"""Turning `begin`, `end` and `frequency` into training steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tfcompress.moments import step_of

# Enough updates for a cubic schedule to be smooth; more often than every 100 steps gains nothing
# in long trainings (Zhu and Gupta 2017 use 100 to 1000).
_MIN_UPDATES = 25
_MAX_FREQUENCY = 100


@dataclass(frozen=True)
class PruningTimetable:
    """The steps at which masks are updated.

    Attributes:
        begin: Step of the first update: pruning starts after that many training steps.
        end: Step of the update that sets the final sparsity.
        frequency: Steps from one update to the next.
        total: Planned number of training steps; None if the data does not say.
        settled: Step of the last update, `end` or later; None for `end`. The updates after `end`
            exchange weights at the same sparsity.
    """

    begin: int
    end: int
    frequency: int
    total: int | None
    settled: int | None = None

    def due(self, step: int, last_update: int, steps: int = 1) -> bool:
        """Whether masks must be updated before the training goes on.

        Args:
            step: Number of training steps done.
            last_update: Step of the last update; -1 before the first.
            steps: Number of training steps until the next chance to update.
        """
        if self.is_final(step, steps):
            return last_update < max(self.end, self.last_due(step))
        return step >= self.begin and self.last_due(step) > last_update

    def is_final(self, step: int, steps: int = 1) -> bool:
        """Whether the final sparsity is due, at the latest before the last training step.

        What is validated and saved after the last step then has the final sparsity.
        """
        return step >= self.end or (self.total is not None and step + steps >= self.total)

    def last_due(self, step: int) -> int:
        """The last step up to `step` at which an update was due; -1 if none was."""
        if step < self.begin:
            return -1
        last = max(self.end, self.settled or 0)
        if step >= last:
            return last
        due = self.begin + (step - self.begin) // self.frequency * self.frequency
        return due if step < self.end else max(due, self.end)

    def progress(self, step: int) -> float:
        """Share of the way from begin to end, in [0, 1]."""
        return min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))

    def starting_at(self, step: int) -> PruningTimetable:
        """The same timetable for a training that prunes from `step` on.

        Raises:
            ValueError: If that leaves no step to prune in.
        """
        if step <= self.begin:
            return self
        if step >= self.end:
            raise ValueError(
                f"Pruning would end at step {self.end}, but this training of a dense model starts "
                f"at step {step}. Give an `end` after that, or set `initial_epoch=0`."
            )
        return replace(self, begin=step)

    def with_total(self, total: int) -> PruningTimetable:
        """The same timetable for a training whose length has become known."""
        return replace(self, total=total)


def make_timetable(
    begin: int | float,
    end: int | float,
    frequency: int | None,
    epochs: int | None,
    steps_per_epoch: int | None,
    regrow_until: int | float | None = None,
) -> PruningTimetable:
    """Resolve shares of the training and check that the schedule fits into it.

    Args:
        begin: Step (int) or share of the training (float) at which pruning starts.
        end: Step or share at which the final sparsity is reached.
        frequency: Steps between updates; None for every 100 steps, or more often if that would
            be under 25 updates.
        epochs: Planned number of epochs, those already done included; None if unknown.
        steps_per_epoch: Training steps in an epoch; None if unknown.
        regrow_until: Step or share up to which weights are exchanged. Defaults to None: `end`.

    Returns:
        The timetable.

    Raises:
        ValueError: If the schedule ends before it begins or after the training, or is given in
            shares of a training whose length is unknown.
    """
    total = epochs * steps_per_epoch if epochs and steps_per_epoch else None
    first = step_of("begin", begin, total)
    last = step_of("end", end, total)
    length = (
        f"The training has {total} steps ({epochs} epochs of {steps_per_epoch})."
        if total is not None
        else ""
    )
    if total is not None and first >= total:
        raise ValueError(
            f"Pruning would begin after the training: `begin` is step {first}. {length} "
            f"Received: begin={begin!r}"
        )
    if total is not None and last > total:
        raise ValueError(
            f"Pruning would end after the training, so the final sparsity would not be reached: "
            f"`end` is step {last}. {length} Train longer or end earlier. Received: end={end!r}"
        )
    if first >= last:
        raise ValueError(
            f"Pruning would end before it begins: `begin` is step {first}, `end` is step {last}. "
            f"{length} Received: begin={begin!r}, end={end!r}".replace("  ", " ")
        )
    settled = None if regrow_until is None else step_of("regrow_until", regrow_until, total)
    if settled is not None and not last <= settled <= (total or settled):
        raise ValueError(
            f"Pruned weights may come back until `end`, step {last}, or later in the training: "
            f"`regrow_until` is step {settled}. {length} Received: regrow_until={regrow_until!r}"
        )
    if frequency is None:
        frequency = max(1, min(_MAX_FREQUENCY, (last - first) // _MIN_UPDATES))
    return PruningTimetable(first, last, frequency, total, settled)

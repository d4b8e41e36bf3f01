"""Counting training steps, also of a resumed training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress.moments import check_moment, step_of


class TrainingClock:
    """Knows the current step of a training, and the steps of the moments it was given.

    Args:
        moments: By argument name, a training step (int), a share of the training (float), or None.

    Attributes:
        step: Training steps done since epoch 0.
        total: Planned training steps; None if not known.
    """

    def __init__(self, moments: Mapping[str, int | float | None]) -> None:
        self._moments = {name: moment for name, moment in moments.items() if moment is not None}
        for name, moment in self._moments.items():
            check_moment(name, moment)
        self._steps: dict[str, int] = {}
        self._steps_per_epoch: int | None = None
        self._epoch_start = 0
        self.step = 0
        self.total: int | None = None

    def start(self, params: Mapping[str, Any]) -> None:
        """Begin a training.

        Args:
            params: The `params` of a Keras callback: `epochs` and `steps` (of an epoch).

        Raises:
            ValueError: If a moment lies behind the end of the training, or shares are used and the
                number of steps is not known.
        """
        self._steps_per_epoch = params.get("steps")
        epochs = params.get("epochs")
        self._epoch_start = self.step = 0
        total = epochs * self._steps_per_epoch if epochs and self._steps_per_epoch else None
        self.total = total
        self._steps = {name: step_of(name, moment, total) for name, moment in self._moments.items()}
        for name, step in self._steps.items():
            if total is not None and step > total:
                raise ValueError(
                    f"`{name}` is step {step}, but the training ends after {total} steps."
                )

    def epoch_begins(self, epoch: int) -> None:
        """Tell that an epoch begins; the first may be any in a resumed training."""
        if self._steps_per_epoch is not None:
            self.step = epoch * self._steps_per_epoch
        self._epoch_start = self.step

    # Batches are counted from the start of the epoch, not one by one: Keras may report the end of
    # one from another thread when the next has begun already.

    def batch_begins(self, batch: int) -> None:
        """Tell that a batch, or the first of several done in one execution, begins."""
        self.step = self._epoch_start + batch

    def batch_ends(self, batch: int) -> None:
        """Tell that a batch, or the last of several done in one execution, has ended."""
        self.step = self._epoch_start + batch + 1

    def planned(self, name: str) -> int | None:
        """The step of a moment; None for one that is None."""
        return self._steps.get(name)

    def reached(self, name: str) -> bool:
        """Whether a moment has come; never for one that is None."""
        return name in self._steps and self.step >= self._steps[name]

"""Counting training steps, and positions in a training given as steps or fractions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_position(name: str, position: int | float | None) -> None:
    """Raise if `position` is neither None, a step, nor a fraction of the training.

    Raises:
        ValueError: If it is negative or a fraction above 1.
        TypeError: If it is no number.
    """
    if position is None:
        return
    if isinstance(position, bool) or not isinstance(position, (int, float)):
        raise TypeError(
            f"`{name}` must be a number of steps (int), a fraction of the training (float from 0 "
            f"to 1), or None. Received: {position!r}"
        )
    if position < 0 or (isinstance(position, float) and position > 1):
        raise ValueError(
            f"`{name}` must be a number of steps (int, 0 or more) or a fraction of the training "
            f"(float from 0 to 1). Received: {position!r}"
        )


class TrainingClock:
    """Knows the current step of a training, also a resumed one.

    Args:
        positions: Steps (int) or fractions of the training (float), or None, by argument name.

    Attributes:
        step: Training steps done since epoch 0.
    """

    def __init__(self, positions: Mapping[str, int | float | None]) -> None:
        for name, position in positions.items():
            check_position(name, position)
        self._positions = dict(positions)
        self.step = 0

    def start(self, params: Mapping[str, Any]) -> dict[str, int | None]:
        """Begin a training.

        Args:
            params: The `params` of a Keras callback: `epochs` and `steps` (of an epoch).

        Returns:
            The positions in steps.

        Raises:
            ValueError: If a position lies behind the end of the training, or fractions are used
                and the number of steps is not known.
        """
        self._steps_per_epoch = params.get("steps")
        epochs = params.get("epochs")
        self._last_batch = -1
        self.step = 0
        total = None
        if self._steps_per_epoch is not None and epochs is not None:
            total = int(epochs) * int(self._steps_per_epoch)
        steps: dict[str, int | None] = {}
        for name, position in self._positions.items():
            steps[name] = self._resolve(name, position, total)
        return steps

    @staticmethod
    def _resolve(name: str, position: int | float | None, total: int | None) -> int | None:
        if position is None or isinstance(position, int):
            if position is not None and total is not None and position > total:
                raise ValueError(
                    f"`{name}` is step {position}, but the training ends after {total} steps."
                )
            return position
        if position == 0:
            return 0
        if total is None:
            raise ValueError(
                f"`{name}={position}` is a fraction of the training, but the number of its steps "
                "is not known. Pass `steps_per_epoch` to `fit`, or give a number of steps."
            )
        return round(position * total)

    def epoch_begins(self, epoch: int) -> None:
        """Tell that an epoch begins; the first may be any in a resumed training."""
        self._last_batch = -1
        if self._steps_per_epoch is not None:
            self.step = epoch * int(self._steps_per_epoch)

    def batch_ends(self, batch: int) -> None:
        """Tell that a batch, or the last of several done in one execution, has ended."""
        self.step += batch - self._last_batch
        self._last_batch = batch

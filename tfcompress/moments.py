"""Moments of a training, given as training steps or as shares of it."""

from __future__ import annotations


def check_moment(name: str, value: object) -> None:
    """Check a `begin` or `end`.

    Raises:
        ValueError: If it is neither a step, an int of at least 0, nor a share of the training, a
            float in [0, 1].
    """
    valid = not isinstance(value, bool) and (
        (isinstance(value, int) and value >= 0) or (isinstance(value, float) and 0 <= value <= 1)
    )
    if not valid:
        raise ValueError(
            f"`{name}` must be a training step (an int of at least 0) or a share of the training "
            f"(a float in [0, 1]). Received: {name}={value!r}"
        )


def step_of(name: str, moment: int | float, total: int | None) -> int:
    """The training step that a moment stands for.

    Args:
        name: Name of the argument, for errors.
        moment: A step (int) or a share of the training (float).
        total: Planned number of training steps; None if unknown.

    Raises:
        ValueError: If it is a share of a training whose length is unknown.
    """
    if isinstance(moment, int):
        return moment
    if moment == 0.0:
        return 0
    if total is None:
        raise ValueError(
            f"`{name}` is a share of the training, whose length is unknown: the data does not say "
            "how many batches it has. Give training steps (ints), or pass `steps_per_epoch` to "
            f"`fit`. Received: {name}={moment!r}"
        )
    return round(moment * total)

"""What an epoch's logs tell about quantization-aware training."""

from __future__ import annotations

from tfcompress.callbacks.training_clock import TrainingClock

NAMES = ("quantizing", "ranges_frozen", "batchnorm_frozen")


def quantization_logs(switches: tuple[bool, bool, bool], clock: TrainingClock) -> dict[str, float]:
    """What the logs of an epoch gain: the state at its end, in which validation ran too.

    Args:
        switches: Whether the model computes quantized, and whether activation ranges and batch
            normalization are frozen.
        clock: Knows whether `freeze_ranges` and `freeze_batchnorm` were asked for.

    Returns:
        1.0 or 0.0 as `quantizing`, and as `ranges_frozen` and `batchnorm_frozen` where the training
        freezes them at some time: logs hold numbers only, and Keras' bar has one line.
    """
    asked = (True, clock.planned("freeze_ranges"), clock.planned("freeze_batchnorm"))
    return {
        name: float(state)
        for name, state, moment in zip(NAMES, switches, asked, strict=True)
        if moment is not None
    }

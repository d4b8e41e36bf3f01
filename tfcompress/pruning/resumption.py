"""Finding the position in a pruning schedule when a training starts or goes on."""

from __future__ import annotations

from typing import Any

from absl import logging
from keras import ops

from tfcompress.pruning.progress import MaskProgress
from tfcompress.pruning.state import PruningState
from tfcompress.pruning.timetable import PruningTimetable


def find_position(
    state: PruningState,
    progress: MaskProgress,
    timetable: PruningTimetable,
    epoch: int,
    steps_per_epoch: int | None,
    optimizer: Any,
) -> PruningTimetable:
    """Set the step and the masks that a training starts with.

    The rules are those that `MagnitudePruning` documents.

    Args:
        state: State of the model; its step, last update, begin and masks are set.
        progress: The masks of the weights to prune.
        timetable: The timetable as planned.
        epoch: The first epoch that is run.
        steps_per_epoch: Steps in an epoch; None if unknown.
        optimizer: The model's optimizer, or None.

    Returns:
        The timetable to follow: `timetable`, unless pruning begins, or began, after its `begin`.

    Raises:
        ValueError: If the position cannot be told, or leaves no step to prune in.
    """
    known = state.restored or (epoch > 0 and state.step > 0)
    if not known:
        state.step, state.last_update, state.begin = 0, -1, -1
        state.forget_evidence()
        pruned = any(mask.pruned for mask in progress.masks)
        if epoch == 0 and state.reads_zeros and not pruned and progress.adopt_zeros():
            logging.info("Weights that hold zeros are taken for pruned: their zeros stay.")
    opened = progress.open_excess()
    if opened:
        logging.warning(
            "%s: pruned beyond what is asked for now (%s=%s); opened to be pruned anew.",
            ", ".join(opened),
            progress.goal.name,
            progress.goal.asked,
        )
    if known:
        timetable = timetable.starting_at(state.begin)
    elif epoch > 0:
        state.step = _step_at(epoch, steps_per_epoch, optimizer)
        timetable = _from_weights(state, progress, timetable)
    state.begin = timetable.begin
    state.apply()
    return timetable


def _from_weights(
    state: PruningState, progress: MaskProgress, timetable: PruningTimetable
) -> PruningTimetable:
    # The update that is due at this very step comes with the next batch.
    last_due = timetable.last_due(state.step - 1)
    if last_due < 0:
        return timetable
    if progress.has_zeros_of(timetable.progress(last_due)):
        progress.advance_to_zeros(timetable.progress(last_due))
        state.last_update = last_due
        return timetable
    logging.info("The model is dense at step %d: pruning begins there.", state.step)
    return timetable.starting_at(state.step)


def _step_at(epoch: int, steps_per_epoch: int | None, optimizer: Any) -> int:
    """The step at the start of an epoch, or within it where the optimizer was saved mid-epoch."""
    if steps_per_epoch is None:
        raise ValueError(
            f"The position of the pruning schedule at epoch {epoch} is unknown: the model has no "
            "pruning state, and the data does not say how many batches an epoch has. Pass "
            "`steps_per_epoch` to `fit`, or restore the weights with `BackupAndRestore`."
        )
    first = epoch * steps_per_epoch
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    iterations = getattr(optimizer, "iterations", None)
    if iterations is None:
        return first
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    done = int(ops.convert_to_numpy(iterations)) * accumulated
    return done if first < done < first + steps_per_epoch else first

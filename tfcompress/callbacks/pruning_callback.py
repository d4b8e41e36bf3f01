"""What pruning callbacks share: masks that grow along a timetable while a model trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import keras
from absl import logging

from tfcompress.callbacks.training_end import after_other_callbacks
from tfcompress.graph.keras_internals import deployed_part
from tfcompress.moments import check_moment
from tfcompress.plain_numbers import plain_number
from tfcompress.pruning.averages import keeps_averages, mask_averages
from tfcompress.pruning.enforcement import Enforcement, enforcement_for
from tfcompress.pruning.goals import Reached
from tfcompress.pruning.gradients import Accumulate
from tfcompress.pruning.resumption import find_position
from tfcompress.pruning.state import PruningState, attach_state
from tfcompress.pruning.targets import PruningTarget
from tfcompress.pruning.timetable import PruningTimetable, make_timetable
from tfcompress.pruning.weight_mask import Mask


class Progress(Protocol):
    """What advances the masks of a model."""

    goal: Any

    def advance(self, progress: float) -> bool:
        """Prune as far as the schedule asks at this point; return whether a mask changed."""

    def is_complete(self) -> bool:
        """Whether the goal is met."""

    def reached(self) -> Reached:
        """What the masks amount to now."""


class PruningCallback(keras.callbacks.Callback, ABC):
    """Base class of callbacks that prune: timing, enforcement, resuming, reporting.

    A subclass says what may be pruned (`_find_targets`) and how masks advance (`_make_progress`).

    Args:
        begin: Step (int) or share of the training (float) at which pruning starts.
        end: Step or share at which the goal is reached.
        frequency: Steps between updates of the masks; None for a fitting number.
        regrow_until: Step or share up to which pruned weights may come back. Defaults to None: they
            do not.

    Attributes:
        targets: The weights to prune, once the callback has a model.
        reached: What was reached, once the training has ended.
    """

    # Lets Keras run the batch-end hooks of its progress bar beside the training: ours only counts.
    async_safe = True

    def __init__(
        self,
        begin: int | float,
        end: int | float,
        frequency: int | None,
        regrow_until: int | float | None = None,
    ) -> None:
        super().__init__()
        self.begin = plain_number(begin)
        self.end = plain_number(end)
        self.frequency = plain_number(frequency)
        self.regrow_until = plain_number(regrow_until)
        _check_frequency(self.frequency)
        check_moment("begin", self.begin)
        check_moment("end", self.end)
        if regrow_until is not None:
            check_moment("regrow_until", self.regrow_until)
        self.targets: list[PruningTarget] = []
        self.reached: Reached | None = None
        self._state: PruningState | None = None
        self._timetable: PruningTimetable | None = None
        self._enforcement: Enforcement | None = None
        self._progress: Any = None
        self._positioned = False
        self._steps_per_epoch: int | None = None
        self._batch_steps = 0
        self._batches_begun = 0
        self._batches_ended: list[int] = []

    @abstractmethod
    def _find_targets(self, model: keras.Model) -> list[PruningTarget]:
        """The weights of a model that may be pruned.

        Raises:
            ValueError: If there are none.
        """

    @abstractmethod
    def _make_progress(self) -> Progress:
        """What advances the masks of the callback's model."""

    @abstractmethod
    def _report(self) -> dict[str, float]:
        """What an epoch's logs gain."""

    def _accumulate(self) -> Accumulate | None:
        """What each step adds to the evidence of the masks; None for nothing."""
        return None

    @property
    def _network(self) -> Any:
        """The model to prune: the student, if a `keras.distillation.Distiller` trains one."""
        return deployed_part(self._model)

    @property
    def _optimizer(self) -> Any:
        return getattr(self._model, "optimizer", None)

    @property
    def state(self) -> PruningState:
        """Masks and step counter of the model.

        Raises:
            RuntimeError: If the callback was not given a model yet.
        """
        if self._state is None:
            raise RuntimeError(
                f"{type(self).__name__} has no model yet. Pass it to `model.fit`, or call "
                "`set_model(model)` in a custom training loop."
            )
        return self._state

    def set_model(self, model: keras.Model | None) -> None:
        """Attach the pruning state, so that callbacks that load weights restore it."""
        super().set_model(model)
        if model is None:
            return
        if self._enforcement is None or self._enforcement.model is not model:
            self._enforcement = enforcement_for(model)
        # A training that was interrupted could not clean up.
        self._enforcement.remove()
        network = self._network
        self.targets = self._find_targets(network)
        self._state = attach_state(network, self.targets)
        self._state.restored = False
        # What an interrupted training left.
        self._state.callback = None
        self._positioned = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the schedule fits into the training, and enforce the masks from here on.

        Raises:
            ValueError: If it does not, or another callback prunes the model in this training.
        """
        other = self.state.callback
        if other not in (None, self):
            raise ValueError(
                f"Two callbacks prune the model {self._network.name!r} in one training, which "
                f"would advance its schedule twice. Received: {type(other).__name__} and "
                f"{type(self).__name__}. Different sparsities by layer go into one "
                "`MagnitudePruning(sparsity={'conv1': 0.5, 'default': 0.8})`. Prune channels "
                "first, call `tfcompress.shrink`, and prune single weights in a second training."
            )
        self.state.callback = self
        params = self.params or {}
        self._steps_per_epoch = params.get("steps")
        self._timetable = make_timetable(
            self.begin,
            self.end,
            self.frequency,
            params.get("epochs"),
            self._steps_per_epoch,
            self.regrow_until,
        )
        self._positioned = False
        self._batches_begun = 0
        self._batches_ended.clear()
        self._install()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the position in the schedule before the first epoch."""
        self._batches_begun = 0
        self._batches_ended.clear()
        if not self._positioned:
            self._find_position(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the masks when due, and count the steps that are about to run.

        Counting before they run makes every checkpoint of this batch hold the right step, whatever
        the order of the callbacks.
        """
        if not self._positioned:
            self._find_position(0)
        state, timetable = self.state, self._planned_timetable()
        self._batch_steps = self._steps_of(batch)
        if timetable.due(state.step, state.last_update, self._batch_steps):
            final = timetable.is_final(state.step, self._batch_steps)
            self._advance(1.0 if final else timetable.progress(state.step))
            state.last_update = state.step
            if final:
                state.last_update = max(timetable.end, timetable.last_due(state.step))
        state.step += self._batch_steps
        self._batches_begun += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note that the batch has run. May be called from another thread."""
        self._batches_ended.append(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report what is pruned in the logs."""
        if self._batches_begun == len(self._batches_ended) + 1:
            # Data of unknown length ends only when a further batch is asked for.
            self.state.step -= self._batch_steps
        self._batches_begun = 0
        self._learn_length()
        if self._require_progress().goal.drifts and self.state.last_update >= (
            self._planned_timetable().end
        ):
            self._advance(1.0)
        self._zero_averages()
        if logs is not None:
            self._read_model()
            logs.update(self._report())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep averaged weights sparse that a callback puts into the model for validation."""
        if self._positioned:
            self._zero_averages()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Make sure of the goal and leave the model as it was, but pruned."""
        if self._positioned and self._progress is not None and not self._progress.is_complete():
            logging.warning(
                "Training stopped at step %d, before pruning ended at step %d (%s). The rest is "
                "pruned now, without fine-tuning. Set an earlier `end`, or let the training run "
                "until then.",
                self.state.step,
                self._planned_timetable().end,
                self._progress.reached(),
            )
            self._advance(1.0)
            self.state.last_update = self._planned_timetable().end
        self._positioned = False
        # After the last epoch Keras copies the optimizer's averages into the weights.
        self._read_model()
        self.state.apply()
        mask_averages(self._optimizer, self.state.masks)
        if self._progress is not None:
            self.reached = self._progress.reached()
            logging.info("Pruned %s. %s", self._network.name, self.reached)
        self.state.callback = None
        self.state.drop_training_values()
        after_other_callbacks(self._model, self.params, self._leave_model)

    def _find_position(self, epoch: int) -> None:
        self._read_model()
        # Loading weights may have brought masks that were not there yet.
        self._install()
        self._progress = self._make_progress()
        self._timetable = find_position(
            self.state,
            self._progress,
            self._planned_timetable(),
            epoch,
            self._steps_per_epoch,
            self._optimizer,
        )
        self._refresh()
        self._positioned = True

    def _advance(self, progress: float) -> None:
        self._read_model()
        if self._require_progress().advance(progress):
            mask_averages(self._optimizer, self.state.masks)
            self._refresh()

    def _install(self) -> None:
        if self._enforcement is not None:
            self._read_model()
            own = self._own_masks()
            accumulate = self._accumulate()
            if accumulate is not None:
                self.state.gather(own)
            if self.regrow_until is not None:
                self.state.train_along(own)
            known = {id(mask) for mask in own}
            self._enforcement.install(
                [mask for mask in self.state.masks if id(mask) in known or mask.pruned],
                accumulate,
            )

    def _refresh(self) -> None:
        if self._enforcement is not None:
            self._enforcement.refresh()

    def _zero_averages(self) -> None:
        if keeps_averages(self._optimizer):
            self._read_model()
            mask_averages(self._optimizer, self.state.masks)
            self.state.apply()

    def _leave_model(self) -> None:
        self.state.apply()
        if self._enforcement is not None:
            self._enforcement.remove()

    def _learn_length(self) -> None:
        """Fit the timetable to data whose length shows only after one epoch."""
        timetable = self._planned_timetable()
        epochs = (self.params or {}).get("epochs")
        if timetable.total is None and epochs and self._batches_ended:
            steps = max(self._batches_ended) + 1
            self._steps_per_epoch = steps
            self._timetable = timetable.with_total(steps * epochs)
            if timetable.end > steps * epochs:
                logging.warning(
                    "Pruning was to end at step %d, but the training turns out to have %d steps: "
                    "the final sparsity is set before the last one, without fine-tuning.",
                    timetable.end,
                    steps * epochs,
                )

    def _steps_of(self, batch: int) -> int:
        steps = int(getattr(self._model, "steps_per_execution", 1) or 1)
        if self._steps_per_epoch is not None and batch < self._steps_per_epoch:
            steps = min(steps, self._steps_per_epoch - batch)
        return steps

    def _own_masks(self) -> list[Mask]:
        return self.state.require(self.targets)

    def _planned_timetable(self) -> PruningTimetable:
        if self._timetable is None:
            raise RuntimeError(
                f"{type(self).__name__} needs `on_train_begin` before its other hooks."
            )
        return self._timetable

    def _require_progress(self) -> Any:
        if self._progress is None:
            raise RuntimeError(
                f"{type(self).__name__} needs `on_train_begin` before its other hooks."
            )
        return self._progress

    def _read_model(self) -> None:
        # On JAX the weights live outside the model while it trains; `self.model` brings them back.
        _ = self.model


def _check_frequency(frequency: object) -> None:
    if frequency is not None and (
        isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1
    ):
        raise ValueError(
            "`frequency` is the number of steps between mask updates and must be an int of at "
            f"least 1, or None. Received: frequency={frequency!r}"
        )

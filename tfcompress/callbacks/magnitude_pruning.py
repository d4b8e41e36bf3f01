"""Magnitude pruning as a Keras callback."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from tfcompress.graph.selection import Patterns, as_patterns, pattern_config
from tfcompress.moments import check_moment
from tfcompress.pruning import criteria, schedules
from tfcompress.pruning.averages import keeps_averages, mask_averages
from tfcompress.pruning.configured import serialize
from tfcompress.pruning.enforcement import Enforcement, enforcement_for
from tfcompress.pruning.progress import SCOPES, MaskProgress
from tfcompress.pruning.resumption import find_position
from tfcompress.pruning.state import Mask, PruningState, attach_state
from tfcompress.pruning.targets import PruningTarget, SkippedWeight, prunable_weights
from tfcompress.pruning.timetable import PruningTimetable, make_timetable


class MagnitudePruning(keras.callbacks.Callback):
    """Prune the smallest weights of a model while it trains.

    Add it to an ordinary `fit`; the model is neither wrapped nor compiled again. From `begin` to
    `end` the sparsity rises to `sparsity` along `schedule` (Zhu and Gupta, "To prune, or not to
    prune", 2017, https://arxiv.org/abs/1710.01878); afterwards the remaining weights are tuned on.
    The optimizer step itself keeps pruned weights at zero, so validation, checkpoints and early
    stops see a sparse model at every batch. The masks stay with the model for `quantize_aware`,
    `strip` and `export`, see `tfcompress.pruning.find_state`.

    Pruned are the kernels of dense, convolution, transposed convolution, einsum, attention and
    recurrent layers and embeddings, nested and shared ones too. Biases, normalization parameters
    and frozen weights never are, depthwise kernels only if `include` names them. `targets` and
    `skipped` list what is and what is not pruned, and why.

    The logs of each epoch, and so `History`, gain `sparsity`, the share of zeros in all pruned
    weights, and `sparsity/<layer>` for each layer.

    **Resuming.** The masks and the step are saved with the weights by `BackupAndRestore`,
    `ModelCheckpoint` and `model.save`, and the schedule position in a `fit` is found thus:

    1. Weights with pruning state are loaded into the model during this `fit`, as
       `BackupAndRestore` does: it continues at exactly the saved step, with the saved masks.
    2. Otherwise, if the `fit` has an `initial_epoch` above 0: it continues at the step and with the
       masks of the model, if it has some from an earlier `fit` or `load_weights`. If it has none (a
       model from `load_model`), it continues at the first step of that epoch, or within it
       where the optimizer's step count says so, and weights that are zero are the masks. If
       the weights are dense there, pruning has not begun, and begins then.
    3. Otherwise a new schedule starts at step 0, also for a model that is pruned already: what is
       pruned stays so while the sparsity rises from there, unless it is more than
       the new `sparsity`.

    `begin` and `end` as shares refer to the whole training from epoch 0 to `epochs`.

    A training that is stopped before `end`, by `EarlyStopping` for instance, is pruned to the final
    sparsity without fine-tuning, and a warning is logged. A custom training loop that calls the
    optimizer's `apply` may use the callback too, by calling its hooks as `fit` does: `set_model`,
    `set_params({"epochs": ..., "steps": ...})`, `on_train_begin`, `on_epoch_begin`,
    `on_train_batch_begin`, `on_train_batch_end`, `on_epoch_end` and `on_train_end`; on TensorFlow,
    trace the training step after `on_train_begin`; on JAX, run `model.train_step`.

    Args:
        sparsity: Share of the weights to prune in the end, in [0, 1). Defaults to `0.5`.
        schedule: How the sparsity rises: `"polynomial"` (fast first), `"cosine"`, `"constant"`
            (all at `begin`), or a `tfcompress.pruning.PruningSchedule`. Defaults to
            `"polynomial"`.
        begin: When pruning starts: a training step (int), or a share of the training (float in
            [0, 1]). Defaults to `0.0`.
        end: When the final sparsity is reached, as a step or share. Defaults to `0.6`: the last
            two fifths fine-tune.
        frequency: Training steps between updates of the masks. Defaults to `None`: every 100
            steps, or more often in a short training so that there are at least 25 updates.
        scope: `"global"` prunes the smallest weights of all layers together, so that layers
            that matter keep more (but at least one weight each); `"uniform"` prunes the same share
            of each weight. Defaults to `"global"`.
        criterion: Which weights go first: `"magnitude"` the smallest, `"lamp"` the smallest share
            of what is left of their layer (Lee et al. 2021; adapts the sparsity of each layer and
            is meant for the global scope), `"random"` any, as a control, or a
            `tfcompress.pruning.Criterion`. Defaults to `"magnitude"`.
        include: Prune only these layers: a layer name, a regular expression that the whole name
            must match, a layer class or the name of one, the name of a weight
            (`"conv1/kernel"`), or a list of these. Naming a layer that contains others stands for
            all in it. Defaults to `None`: all.
        exclude: Layers not to prune, given likewise; wins over `include`. Defaults to `None`.

    Attributes:
        targets: The weights to prune, once the training has begun.
        skipped: The weights not to prune, each with a `reason`.
        state: The `PruningState` of the model.

    Raises:
        ValueError: If an argument is outside its range; and, when `fit` starts, if the model is
            not built, has no weights to prune, a pattern matches no layer, or the schedule ends
            before it begins or does not fit into the planned training.

    Example:

    ```python
    model.fit(train, epochs=10, callbacks=[tfcompress.callbacks.MagnitudePruning(sparsity=0.8)])
    ```
    """

    # Lets Keras run the batch-end hooks of its progress bar beside the training: ours only counts.
    async_safe = True

    def __init__(
        self,
        sparsity: float = 0.5,
        schedule: str | dict[str, Any] | schedules.PruningSchedule = "polynomial",
        begin: int | float = 0.0,
        end: int | float = 0.6,
        frequency: int | None = None,
        scope: str = "global",
        include: Patterns = None,
        exclude: Patterns = None,
        criterion: str | dict[str, Any] | criteria.Criterion = "magnitude",
    ) -> None:
        super().__init__()
        _check_arguments(sparsity, frequency, scope)
        check_moment("begin", begin)
        check_moment("end", end)
        self.sparsity = float(sparsity)
        self.schedule = schedules.get(schedule)
        self.schedule.check(self.sparsity)
        self.begin = begin
        self.end = end
        self.frequency = frequency
        self.scope = scope
        self.criterion = criteria.get(criterion)
        self.include = as_patterns(include, "include")
        self.exclude = as_patterns(exclude, "exclude")
        self.targets: list[PruningTarget] = []
        self.skipped: list[SkippedWeight] = []
        self._state: PruningState | None = None
        self._timetable: PruningTimetable | None = None
        self._enforcement: Enforcement | None = None
        self._progress: MaskProgress | None = None
        self._positioned = False
        self._steps_per_epoch: int | None = None
        self._batch_steps = 0
        self._batches_begun = 0
        self._batches_ended: list[int] = []

    @property
    def state(self) -> PruningState:
        """Masks and step counter of the model.

        Raises:
            RuntimeError: If the callback was not given a model yet.
        """
        if self._state is None:
            raise RuntimeError(
                "MagnitudePruning has no model yet. Pass it to `model.fit`, or call "
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
        self.targets, self.skipped = prunable_weights(model, self.include, self.exclude)
        if not self.targets:
            reasons = "; ".join(f"{weight.name}: {weight.reason}" for weight in self.skipped[:8])
            raise ValueError(
                f"The model {model.name!r} has no weights to prune. Skipped: {reasons or 'nothing'}"
            )
        self._state = attach_state(model, self.targets)
        self._state.restored = False
        self._positioned = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the schedule fits into the training, and enforce the masks from here on."""
        params = self.params or {}
        self._steps_per_epoch = params.get("steps")
        self._timetable = make_timetable(
            self.begin, self.end, self.frequency, params.get("epochs"), self._steps_per_epoch
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
            state.last_update = timetable.end if final else state.step
        state.step += self._batch_steps
        self._batches_begun += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note that the batch has run. May be called from another thread."""
        self._batches_ended.append(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the sparsity in the logs."""
        if self._batches_begun == len(self._batches_ended) + 1:
            # Data of unknown length ends only when a further batch is asked for.
            self.state.step -= self._batch_steps
        self._batches_begun = 0
        self._learn_length()
        self._zero_averages()
        if logs is not None:
            logs.update(self.sparsities())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep averaged weights sparse that a callback puts into the model for validation."""
        if self._positioned:
            self._zero_averages()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Make sure of the final sparsity and leave the model as it was, but pruned."""
        if self._positioned and self._progress is not None and not self._progress.is_complete():
            logging.warning(
                "Training stopped at step %d, before pruning ended at step %d: pruning from a "
                "sparsity of %.4f to %.4f now, without fine-tuning. Set an earlier `end`, or let "
                "the training run until then.",
                self.state.step,
                self._planned_timetable().end,
                self.state.sparsity,
                self.sparsity,
            )
            self._advance(1.0)
            self.state.last_update = self._planned_timetable().end
        self._positioned = False
        # After the last epoch Keras copies the optimizer's averages into the weights.
        self._read_model()
        self.state.apply()
        mask_averages(getattr(self._model, "optimizer", None), self.state.masks)
        self._after_other_callbacks(self._leave_model)

    def sparsities(self) -> dict[str, float]:
        """Share of zeros in the weights as they are now.

        Returns:
            `"sparsity"` for all pruned weights together and `"sparsity/<layer>"` for each layer.
        """
        self._read_model()
        zeros: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for mask in self._own_masks():
            zeros[mask.layer_name] = zeros.get(mask.layer_name, 0) + mask.zeros()
            sizes[mask.layer_name] = sizes.get(mask.layer_name, 0) + mask.size
        result = {"sparsity": sum(zeros.values()) / sum(sizes.values())}
        result.update({f"sparsity/{name}": zeros[name] / sizes[name] for name in zeros})
        return result

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values."""
        return {
            "sparsity": self.sparsity,
            "schedule": serialize(self.schedule),
            "begin": self.begin,
            "end": self.end,
            "frequency": self.frequency,
            "scope": self.scope,
            "include": pattern_config(self.include),
            "exclude": pattern_config(self.exclude),
            "criterion": serialize(self.criterion),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MagnitudePruning:
        """Build the callback that `get_config` described."""
        return cls(**config)

    def _find_position(self, epoch: int) -> None:
        self._read_model()
        # Loading weights may have brought masks that were not there yet.
        self._install()
        self._progress = MaskProgress(
            self._own_masks(), self.sparsity, self.schedule, self.scope, self.criterion
        )
        self._timetable = find_position(
            self.state,
            self._progress,
            self._planned_timetable(),
            epoch,
            self._steps_per_epoch,
            getattr(self._model, "optimizer", None),
        )
        self._refresh()
        self._positioned = True

    def _advance(self, progress: float) -> None:
        self._read_model()
        if self._require_progress().advance(progress):
            mask_averages(getattr(self._model, "optimizer", None), self.state.masks)
            self._refresh()

    def _install(self) -> None:
        if self._enforcement is not None:
            self._read_model()
            own = {id(mask) for mask in self._own_masks()}
            self._enforcement.install(
                [mask for mask in self.state.masks if id(mask) in own or mask.pruned]
            )

    def _refresh(self) -> None:
        if self._enforcement is not None:
            self._enforcement.refresh()

    def _zero_averages(self) -> None:
        optimizer = getattr(self._model, "optimizer", None)
        if keeps_averages(optimizer):
            self._read_model()
            mask_averages(optimizer, self.state.masks)
            self.state.apply()

    def _leave_model(self) -> None:
        self.state.apply()
        if self._enforcement is not None:
            self._enforcement.remove()

    def _after_other_callbacks(self, action: Callable[[], None]) -> None:
        """Run `action` when the training has ended for the other callbacks too.

        `EarlyStopping` and others put earlier weights back when the training ends, which may be
        after this callback's turn. `History` is called after the callbacks that the user lists.
        """
        history = getattr(self._model, "history", None)
        # The params tell the History of this training from one that an earlier `fit` left.
        if not isinstance(history, keras.callbacks.History) or history.params is not self.params:
            action()
            return

        def on_train_end(logs: dict[str, Any] | None = None) -> None:
            del history.on_train_end
            history.on_train_end(logs)
            action()

        history.on_train_end = on_train_end

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
            raise RuntimeError("MagnitudePruning needs `on_train_begin` before its other hooks.")
        return self._timetable

    def _require_progress(self) -> MaskProgress:
        if self._progress is None:
            raise RuntimeError("MagnitudePruning needs `on_train_begin` before its other hooks.")
        return self._progress

    def _read_model(self) -> None:
        # On JAX the weights live outside the model while it trains; `self.model` brings them back.
        _ = self.model


def _check_arguments(sparsity: object, frequency: object, scope: object) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise ValueError(
            "`sparsity` is the share of weights to prune and must be at least 0 and below 1. "
            f"Received: sparsity={sparsity!r}"
        )
    if frequency is not None and (
        isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1
    ):
        raise ValueError(
            "`frequency` is the number of steps between mask updates and must be an int of at "
            f"least 1, or None. Received: frequency={frequency!r}"
        )
    if scope not in SCOPES:
        near = difflib.get_close_matches(str(scope).lower(), SCOPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`scope` must be one of {', '.join(map(repr, SCOPES))}. "
            f"Received: scope={scope!r}.{hint}"
        )

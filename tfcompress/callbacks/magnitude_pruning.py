"""Magnitude pruning as a Keras callback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfcompress.callbacks.pruning_callback import PruningCallback
from tfcompress.graph.selection import Pattern, Patterns
from tfcompress.pruning.criteria import Criterion
from tfcompress.pruning.gradients import Accumulate
from tfcompress.pruning.progress import MaskProgress
from tfcompress.pruning.schedules import PruningSchedule
from tfcompress.pruning.settings import Choice, PruningSettings
from tfcompress.pruning.targets import PruningTarget, SkippedWeight


class MagnitudePruning(PruningCallback):
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

    In the `fit` of a `keras.distillation.Distiller` the student is pruned.

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
       the new `sparsity`. In a model from `load_model` weights that hold zeros among other values
       are taken for pruned, unless `tfcompress.pruning.detach_state(model)` says that they are not.

    `begin` and `end` as shares refer to the whole training from epoch 0 to `epochs`.

    A training that is stopped before `end`, by `EarlyStopping` for instance, is pruned to the final
    sparsity without fine-tuning, and a warning is logged. A custom training loop that calls the
    optimizer's `apply` may use the callback too, by calling its hooks as `fit` does: `set_model`,
    `set_params({"epochs": ..., "steps": ...})`, `on_train_begin`, `on_epoch_begin`,
    `on_train_batch_begin`, `on_train_batch_end`, `on_epoch_end` and `on_train_end`; on TensorFlow,
    trace the training step after `on_train_begin`; on JAX, run `model.train_step`.

    Args:
        sparsity: Share of the weights to prune in the end, in [0, 1); or shares by layer, such as
            `{"conv1": 0.5, "re:dense.*": 0.9, "Conv2D": 0.8}`: names, regular expressions (marked
            `re:` or not), classes, and `"default"` for the rest, which otherwise stays dense. A
            name counts more than an expression, and that more than a class. Defaults to 0.5 where
            no other goal is given.
        schedule: How the sparsity rises: `"polynomial"` (fast first), `"cosine"`, `"constant"`
            (all at `begin`), or a `tfcompress.pruning.PruningSchedule`. Defaults to
            `"polynomial"`.
        begin: When pruning starts: a training step (int), or a share of the training (float in
            [0, 1]). Defaults to `0.0`.
        end: When the final sparsity is reached, as a step or share. Defaults to `0.6`: the last
            two fifths fine-tune.
        frequency: Training steps between updates of the masks. Defaults to `None`: every 100
            steps, or more often in a short training so that there are at least 25 updates.
        scope: How the sparsity is shared out. `"global"` prunes the smallest weights of all layers
            together, so that layers that matter keep more (but at least one weight each);
            `"uniform"` prunes the same share of each weight; `"erdos-renyi-kernel"` keeps small
            layers denser (Evci et al. 2020); sparsities by layer, or what
            `tfcompress.sensitivity` returns, are scaled to the goal. Defaults to `"global"`.
        criterion: Which weights go first: `"magnitude"` the smallest, `"lamp"` the smallest share
            of what is left of their layer, `"taylor"` the least weight times gradient,
            `"movement"` those that training shrinks, `"random"` any, as a control; of whole
            channels `"batchnorm_scale"` the least gamma, `"apoz"` those that are mostly zero on
            `data`, `"mean_activation"` the least active; or a `tfcompress.pruning.Criterion`.
            Defaults to `"magnitude"`.
        include: Prune only these layers: a layer name, a regular expression that the whole name
            must match, a layer class or the name of one, the name of a weight
            (`"conv1/kernel"`), or a list of these. Naming a layer that contains others stands for
            all in it. Defaults to `None`: all.
        exclude: Layers not to prune, given likewise; wins over `include`. Defaults to `None`.
        pattern: Which weights go together: `"unstructured"`; blocks such as `"1x4"` (outputs by
            inputs, as LiteRT stores them); `"2:4"`, 2 weights kept of every 4 along LiteRT's last
            axis, which fixes the sparsity; `"channel"` or `"filter"`, all weights of an output
            channel. Defaults to `None`: what the criterion scores, mostly single weights.
        parameters: Prune until this many parameters of the whole model are left.
        bytes: Prune until the int8 weights take this many bytes when stored sparsely, see
            `tfcompress.pruning.goals.BytesGoal`. Not the size of the `.tflite` file.
        gzip_bytes: Prune until the int8 `.tflite` file takes about this many bytes after gzip. A
            file is made at the first and the last update of the masks to find what is in it beside
            kernels, which takes 10 to 20 seconds each and TensorFlow.
        macs: Prune until this many multiplications by weights that are not zero are left, or, up to
            1, this share of them. LiteRT does not skip zeros.
        data: Samples for `"apoz"` and `"mean_activation"`, as calibration data.
        regrow_until: Step or share, `end` or later, up to which pruned weights may come back. They
            are trained along outside of the model, by the gradients of the pruned model (dynamic
            pruning with feedback, Lin et al. 2020, https://arxiv.org/abs/2006.07253, algorithm 1),
            and at every update of the masks all weights compete anew at the scheduled sparsity.
            That costs a copy of the weights while it trains, and lets `end` come earlier. For
            criteria that look at the weights only. Defaults to `None`: pruned weights stay pruned.

    Attributes:
        targets: The weights to prune, once the training has begun.
        skipped: The weights not to prune, each with a `reason`.
        state: The `PruningState` of the model.
        reached: What the pruning reached beside what was asked for, once the training has ended.

    Raises:
        ValueError: If an argument is outside its range, or two do not go together; and, when `fit`
            starts, if the model is not built, has no weights to prune, a pattern matches no layer,
            the goal cannot be reached, or the schedule ends before it begins or does not fit into
            the planned training.

    Example:

    ```python
    model.fit(train, epochs=10, callbacks=[tfcompress.callbacks.MagnitudePruning(sparsity=0.8)])
    ```
    """

    def __init__(
        self,
        sparsity: float | Mapping[Pattern, float] | None = None,
        schedule: str | dict[str, Any] | PruningSchedule = "polynomial",
        begin: int | float = 0.0,
        end: int | float = 0.6,
        frequency: int | None = None,
        scope: Any = "global",
        include: Patterns = None,
        exclude: Patterns = None,
        criterion: str | dict[str, Any] | Criterion = "magnitude",
        pattern: Any = None,
        parameters: int | None = None,
        bytes: int | None = None,
        gzip_bytes: int | None = None,
        macs: int | float | None = None,
        data: Any = None,
        regrow_until: int | float | None = None,
    ) -> None:
        super().__init__(begin, end, frequency, regrow_until)
        goals = {"parameters": parameters, "bytes": bytes, "gzip_bytes": gzip_bytes, "macs": macs}
        self.settings = PruningSettings(
            sparsity, schedule, scope, include, exclude, criterion, pattern, goals, data
        )
        seen = self.settings.criterion
        if regrow_until is not None and (seen.uses_gradients or seen.uses_channels):
            raise ValueError(
                f"{seen!r} cannot score weights that are not in the model, so "
                "pruned ones cannot come back: take 'magnitude' or 'lamp', or leave out "
                f"`regrow_until`. Received: regrow_until={regrow_until!r}"
            )
        self.skipped: list[SkippedWeight] = []
        self._choice: Choice | None = None

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

    def describe(self, share: float | None = None) -> dict[str, Any]:
        """The settings of one weight, for a plan.

        Args:
            share: Sparsity that is asked of it. Defaults to None: that of all.
        """
        settings = self.settings.describe(share)
        if self.regrow_until is not None:
            settings["regrow_until"] = self.regrow_until
        return settings

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without `data`."""
        return {
            **self.settings.get_config(),
            "begin": self.begin,
            "end": self.end,
            "frequency": self.frequency,
            "regrow_until": self.regrow_until,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MagnitudePruning:
        """Build the callback that `get_config` described."""
        return cls(**config)

    def _find_targets(self, model: keras.Model) -> list[PruningTarget]:
        self._choice = self.settings.choose(model)
        self.skipped = self._choice.skipped
        if not self._choice.targets:
            raise ValueError(
                f"The model {model.name!r} has no weights to prune. Skipped: "
                f"{_summary(self.skipped) or 'nothing'}"
            )
        return self._choice.targets

    def _make_progress(self) -> MaskProgress:
        masks, settings, choice = self._own_masks(), self.settings, self._choice
        shares = choice.shares if choice is not None else [None] * len(masks)
        goal = settings.goal(self.targets, shares)
        goal.bind(self._network, masks)
        return MaskProgress(
            masks,
            goal,
            settings.schedule,
            settings.scope,
            settings.criterion,
            settings.pattern,
            choice.measurement if choice is not None else None,
            shares,
        )

    def _accumulate(self) -> Accumulate | None:
        criterion = self.settings.criterion
        return criterion.accumulate if criterion.uses_gradients else None

    def _report(self) -> dict[str, float]:
        return self.sparsities()


def _summary(skipped: Sequence[SkippedWeight]) -> str:
    """Every reason once, with the first weights that it is about."""
    names: dict[str, list[str]] = {}
    for weight in skipped:
        names.setdefault(weight.reason, []).append(weight.name)
    return "; ".join(
        f"{', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}: {reason}"
        for reason, found in names.items()
    )

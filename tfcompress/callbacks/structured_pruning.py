"""Pruning whole channels as a Keras callback."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.callbacks.pruning_callback import PruningCallback
from tfcompress.graph.selection import Patterns, as_patterns, pattern_config
from tfcompress.pruning import schedules
from tfcompress.pruning.configured import serialize
from tfcompress.pruning.structured import criteria
from tfcompress.pruning.structured.goal import NAMES, ChannelGoal
from tfcompress.pruning.structured.groups import DependencyGroups, dependency_groups
from tfcompress.pruning.structured.progress import ChannelProgress
from tfcompress.pruning.structured.shrinking import check_round_to, require_groups
from tfcompress.pruning.structured.zeros import channel_masks
from tfcompress.pruning.targets import PruningTarget, every_weight


class StructuredPruning(PruningCallback):
    """Drive whole channels of a model to zero while it trains, so that they can be removed.

    Add it to an ordinary `fit`, then call `tfcompress.shrink(model)`: that removes the channels,
    which are exactly zero, and changes no output. From `begin` to `end` the share that has to go
    rises along `schedule`; at every update the least important channels of all layers together are
    set to zero with everything that depends on them (see `tfcompress.dependency_groups`): kernels,
    biases, scales and offsets of normalization, in all branches of a residual connection. The
    optimizer step itself keeps them at zero. Channels that will have to go later fade until it is
    their turn.

    Timing, resuming and what is saved are those of `MagnitudePruning`: the masks are saved with the
    weights in `.keras` and `.weights.h5` files. Prune single weights after the shrink, not in the
    same training. Frozen layers lose channels as well, unless `exclude` names them.

    The logs of each epoch, and so `History`, gain `channel_sparsity`, the share of channels that
    are zero, and `pruned_macs`, `pruned_parameters` or `pruned_bytes`: what the shrunken model has.

    Args:
        macs: Multiply-accumulate operations that may be left after the shrink: a float up to 1 is a
            share of the dense model's, an int above 1 is absolute. Exactly one of the four goals
            must be given.
        parameters: Parameters that may be left, likewise.
        bytes: Bytes of weights, in their own dtypes, that may be left, likewise.
        sparsity: Share of the channels that can go to remove, in [0, 1).
        criterion: What makes a channel important; see `tfcompress.shrink`. Defaults to `"l1"`.
        schedule: How the share that is gone rises: `"polynomial"` (fast first), `"cosine"`,
            `"constant"` (all at `begin`), or a `tfcompress.pruning.PruningSchedule`. Defaults to
            `"polynomial"`.
        begin: When pruning starts: a training step (int), or a share of the training (float in
            [0, 1]). Defaults to `0.0`.
        end: When the goal is reached, as a step or share. Defaults to `0.6`: the last two fifths
            fine-tune.
        frequency: Training steps between updates. Defaults to `None`: every 100 steps, or more
            often in a short training so that there are at least 25 updates.
        include: Only channels made by these layers: names, paths in nested models, regular
            expressions, layer classes or their names, or a list of these. Defaults to None: all.
        exclude: Layers that keep all their channels; wins over `include`. Defaults to None.
        round_to: The number of channels left in a layer is a multiple of this, or all. Defaults
            to 8.
        exact: Whether channels stay whose removal changes the others, as a layer normalization over
            them does. Defaults to True.
        soft: Whether channels fade before they are zero. Defaults to True.
        data: Data for criteria that measure on some; see `tfcompress.shrink`. Defaults to None.

    Attributes:
        groups: The `DependencyGroups` of the model, once the callback has one.
        targets: The weights that lie along channels.
        reached: What was reached, once the training has ended.

    Raises:
        ValueError: If an argument is outside its range; and, when `fit` starts, if nothing can be
            removed, the goal cannot be met, a pattern matches no layer, or the schedule does not
            fit into the training.

    Reference: the schedule is that of Zhu and Gupta, "To prune, or not to prune" (2017),
    https://arxiv.org/abs/1710.01878; fading follows He et al., "Soft Filter Pruning" (2018),
    https://arxiv.org/abs/1808.06866.

    Example:

    ```python
    model.fit(train, epochs=10, callbacks=[tfcompress.callbacks.StructuredPruning(macs=0.5)])
    small = tfcompress.shrink(model)
    ```
    """

    def __init__(
        self,
        macs: int | float | None = None,
        parameters: int | float | None = None,
        bytes: int | float | None = None,
        sparsity: float | None = None,
        criterion: str | dict[str, Any] | criteria.ChannelCriterion = "l1",
        schedule: str | dict[str, Any] | schedules.PruningSchedule = "polynomial",
        begin: int | float = 0.0,
        end: int | float = 0.6,
        frequency: int | None = None,
        include: Patterns = None,
        exclude: Patterns = None,
        round_to: int = 8,
        exact: bool = True,
        soft: bool = True,
        data: Any = None,
    ) -> None:
        super().__init__(begin, end, frequency)
        goal = ChannelGoal.of(macs=macs, parameters=parameters, bytes=bytes, sparsity=sparsity)
        if goal is None:
            raise ValueError(
                f"Say how much is to go: give one of {', '.join(NAMES)}, such as `macs=0.5`."
            )
        self.goal = goal
        self.criterion = criteria.get(criterion)
        self.criterion.require_data(data)
        self.schedule = schedules.get(schedule)
        self.include = as_patterns(include, "include")
        self.exclude = as_patterns(exclude, "exclude")
        self.round_to = check_round_to(round_to)
        self.exact = exact
        self.soft = soft
        self.data = data
        self.groups: DependencyGroups | None = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without `data`."""
        return {
            self.goal.name: self.goal.amount,
            "criterion": serialize(self.criterion),
            "schedule": serialize(self.schedule),
            "begin": self.begin,
            "end": self.end,
            "frequency": self.frequency,
            "include": pattern_config(self.include),
            "exclude": pattern_config(self.exclude),
            "round_to": self.round_to,
            "exact": self.exact,
            "soft": self.soft,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StructuredPruning:
        """Build the callback that `get_config` described."""
        return cls(**config)

    def _find_targets(self, model: keras.Model) -> list[PruningTarget]:
        self.groups = dependency_groups(
            model, include=self.include, exclude=self.exclude, exact=self.exact
        )
        require_groups(self.groups)
        known = every_weight(model)
        return [known[id(variable)] for variable, _ in channel_masks(self.groups, ())]

    def _make_progress(self) -> ChannelProgress:
        return ChannelProgress(
            self._known_groups(),
            self._own_masks(),
            self.goal,
            self.schedule,
            self.criterion,
            self.round_to,
            self.soft,
            self.data,
        )

    def _find_position(self, epoch: int) -> None:
        super()._find_position(epoch)
        if self.state.last_update >= 0:
            # Channels have faded up to there.
            self._progress.faded = self._planned_timetable().progress(self.state.last_update)

    def _report(self) -> dict[str, float]:
        report = {"channel_sparsity": self._progress.channel_sparsity()}
        if self.goal.name != "sparsity":
            report[f"pruned_{self.goal.name}"] = float(self._progress.figure())
        return report

    def _known_groups(self) -> DependencyGroups:
        if self.groups is None:
            raise RuntimeError("StructuredPruning has no model yet. Pass it to `model.fit`.")
        return self.groups

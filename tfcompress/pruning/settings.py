"""What a user asks of a pruning, checked, and the weights of a model that it applies to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.selection import Pattern as LayerPattern
from tfcompress.graph.selection import Patterns, as_patterns, pattern_config
from tfcompress.plain_numbers import plain_number
from tfcompress.pruning import channel_criteria, criteria, patterns, schedules, scopes
from tfcompress.pruning.configured import choose, serialize
from tfcompress.pruning.criteria import Criterion, Measurement
from tfcompress.pruning.goals import BytesGoal, Goal, MacsGoal, ParameterGoal, SparsityGoal
from tfcompress.pruning.gzip_goal import GzipGoal
from tfcompress.pruning.layouts import stored_layout
from tfcompress.pruning.patterns import Channel, Unstructured
from tfcompress.pruning.targets import PruningTarget, SkippedWeight, prunable_weights

CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": criteria.Magnitude,
    "lamp": criteria.LayerAdaptiveMagnitude,
    "taylor": criteria.Taylor,
    "movement": criteria.Movement,
    "batchnorm_scale": channel_criteria.BatchNormScale,
    "apoz": channel_criteria.PositiveShare,
    "mean_activation": channel_criteria.MeanActivation,
    "random": criteria.RandomScore,
}
GOALS: dict[str, type[Goal]] = {
    goal.name: goal for goal in (ParameterGoal, BytesGoal, GzipGoal, MacsGoal)
}

# Sparsity where nothing is asked for.
_DEFAULT = 0.5


def get_criterion(identifier: str | dict[str, Any] | Criterion) -> Criterion:
    """Return the criterion that a name, a config or an object stands for.

    Args:
        identifier: A key of `CRITERIA`, a `Criterion`, or its serialized config.

    Raises:
        ValueError: If it is none of these.

    Example:

    ```python
    get_criterion("lamp") == LayerAdaptiveMagnitude()
    ```
    """
    return choose(identifier, Criterion, CRITERIA, "criterion")  # type: ignore[type-abstract]


@dataclass(frozen=True, eq=False)
class Choice:
    """The weights of one model that a pruning applies to.

    Attributes:
        targets: Weights to prune.
        skipped: Weights not to prune, with the reasons.
        shares: Sparsity that the user wants in each target; None where none is given.
        measurement: What reads the values of channels, for criteria that need them.
    """

    targets: list[PruningTarget]
    skipped: list[SkippedWeight]
    shares: list[float | None]
    measurement: Measurement | None


class PruningSettings:
    """What to prune, how much, by what criterion and in what pattern.

    Args:
        sparsity: See `tfcompress.callbacks.MagnitudePruning`, as for the others.
        schedule: How the sparsity rises.
        scope: How it is shared out.
        include: Layers to prune.
        exclude: Layers not to prune.
        criterion: What goes first.
        pattern: What goes together.
        goals: Amounts by the names of `GOALS`; None for those that are not asked for.
        data: Samples for criteria that measure activations.

    Raises:
        ValueError: If a setting is outside its range, or two do not go together.
    """

    def __init__(
        self,
        sparsity: float | Mapping[LayerPattern, float] | None = None,
        schedule: Any = "polynomial",
        scope: Any = "global",
        include: Patterns = None,
        exclude: Patterns = None,
        criterion: Any = "magnitude",
        pattern: Any = None,
        goals: Mapping[str, float | None] | None = None,
        data: Any = None,
    ) -> None:
        self.schedule = schedules.get(schedule)
        self.criterion = get_criterion(criterion)
        whole = Channel() if self.criterion.uses_channels else Unstructured()
        self.pattern = whole if pattern is None else patterns.get(pattern)
        if self.criterion.uses_channels and self.pattern != Channel():
            raise ValueError(
                f"{self.criterion!r} scores whole output channels: use pattern='channel', or a "
                f"criterion of single weights. Received: pattern={pattern!r}"
            )
        self.include = as_patterns(include, "include")
        self.exclude = as_patterns(exclude, "exclude")
        self.data = data
        self.asked = {
            name: plain_number(value) for name, value in (goals or {}).items() if value is not None
        }
        self.sparsity = self._checked_sparsity(sparsity)
        self._given_scope = scope
        self.scope = scopes.get(scope)
        if isinstance(self.sparsity, dict):
            if scope != "global":
                raise ValueError(
                    "Sparsities by layer leave nothing to share out: leave `scope` as it is. "
                    f"Received: scope={scope!r}"
                )
            self.scope = scopes.ProfileScope()
        elif self.sparsity is not None:
            self.schedule.check(self.sparsity)
        if self.pattern.share is not None and not isinstance(
            self.scope, scopes.GlobalScope | scopes.UniformScope
        ):
            raise ValueError(
                f"pattern={str(self.pattern)!r} fixes the sparsity of every layer, so `scope` must "
                f"be 'global' or 'uniform'. Received: scope={scope!r}"
            )

    def goal(self, targets: Sequence[PruningTarget], shares: Sequence[float | None]) -> Goal:
        """A new goal for a training."""
        for name, value in self.asked.items():
            return GOALS[name](value)
        if isinstance(self.sparsity, dict):
            wanted = sum(target.size * (share or 0) for target, share in zip(targets, shares))
            return SparsityGoal(wanted / sum(target.size for target in targets))
        return SparsityGoal(float(self.sparsity or 0.0))

    def choose(self, model: keras.Model, measure: bool = True) -> Choice:
        """Find the weights of a model that this applies to.

        Args:
            model: A built model.
            measure: Whether the criterion is going to be used, and not only planned with.

        Raises:
            ValueError: If the model is not built, a pattern matches no layer, or the criterion
                misses data.
        """
        if isinstance(self.sparsity, dict):
            targets, skipped, profile = self._profiled(model, self.sparsity, "sparsity")
        elif isinstance(self.scope, scopes.ProfileScope):
            targets, skipped, profile = self._profiled(model, self._scope_mapping(), "scope")
        else:
            targets, skipped = prunable_weights(model, self.include, self.exclude)
            profile = {}
        refused = self._refused(model, targets)
        measurement = None
        if self.criterion.uses_channels and (measure or self.data is not None):
            able = [target for target in targets if id(target.variable) not in refused]
            measurement, more = self.criterion.measurement(model, able, self.data)
            refused.update(more)
        skipped += [
            SkippedWeight(t.name, t.layer, t.variable, refused[id(t.variable)])
            for t in targets
            if id(t.variable) in refused
        ]
        targets = [target for target in targets if id(target.variable) not in refused]
        return Choice(targets, skipped, [profile.get(id(t.variable)) for t in targets], measurement)

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain values, without the data."""
        scope = self._given_scope
        if not isinstance(scope, str):
            scope = _plain(self._scope_mapping())
        sparsity = self.sparsity
        return {
            "sparsity": _plain(sparsity) if isinstance(sparsity, dict) else sparsity,
            "schedule": serialize(self.schedule),
            "scope": scope,
            "include": pattern_config(self.include),
            "exclude": pattern_config(self.exclude),
            "criterion": serialize(self.criterion),
            "pattern": serialize(self.pattern),
            **self.asked,
        }

    def describe(self, share: float | None = None) -> dict[str, Any]:
        """The settings of one weight, for a plan."""
        if self.asked:
            shown: dict[str, Any] = dict(self.asked)
        else:
            shown = {"sparsity": self.sparsity if share is None else share}
        if not isinstance(self.sparsity, dict):
            given = self._given_scope
            shown["scope"] = given if isinstance(given, str) else "by layer"
        if self.criterion != criteria.Magnitude():
            shown["criterion"] = repr(self.criterion)
        if self.pattern != Unstructured():
            shown["pattern"] = str(self.pattern)
        return shown

    def _checked_sparsity(self, sparsity: Any) -> float | dict[LayerPattern, float] | None:
        given = [*self.asked, *(["sparsity"] if sparsity is not None else [])]
        if len(given) > 1:
            raise ValueError(
                f"Give one of `sparsity`, {', '.join(f'`{name}`' for name in GOALS)}. "
                f"Received: {', '.join(given)}"
            )
        for name, value in self.asked.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"`{name}` must be a number above 0. Received: {name}={value!r}")
        share = self.pattern.share
        if share is not None:
            if self.asked or sparsity not in (None, share):
                raise ValueError(
                    f"pattern={str(self.pattern)!r} fixes the sparsity at {share:g}: leave out "
                    f"other goals. Received: {self.asked or f'sparsity={sparsity!r}'}"
                )
            return share
        if isinstance(sparsity, Mapping):
            if not sparsity:
                raise ValueError("`sparsity` must name at least one layer. Received: sparsity={}")
            return {key: _share(value, f"sparsity[{key!r}]") for key, value in sparsity.items()}
        if sparsity is None:
            return None if self.asked else _DEFAULT
        return _share(sparsity, "sparsity")

    def _scope_mapping(self) -> dict[LayerPattern, float]:
        given = self._given_scope
        if not isinstance(given, Mapping):
            # What `tfcompress.sensitivity` returns needs to know how much is wanted in all.
            wanted = self.sparsity if isinstance(self.sparsity, float) else _DEFAULT
            given = given.sparsities(wanted)
        return {key: _share(value, f"scope[{key!r}]") for key, value in given.items()}

    def _profiled(
        self, model: keras.Model, mapping: Mapping[LayerPattern, float], argument: str
    ) -> tuple[list[PruningTarget], list[SkippedWeight], dict[int, float]]:
        """Weights and their sparsities, the most particular entry that names each of them."""
        if self.include is not None:
            raise ValueError(
                f"`{argument}` by layer says itself what to prune: leave out `include`. "
                f"Received: include={self.include!r}"
            )
        weights = {found.name for part in prunable_weights(model) for found in part}
        # Classes first and names last, so that what is set last counts.
        entries = sorted(mapping.items(), key=lambda entry: _rank(entry[0], model, weights))
        named = {_bare(key): value for key, value in entries if key != "default"}
        default = mapping.get("default")
        profile: dict[int, float] = {}
        if default is not None:
            targets, skipped = prunable_weights(model, None, self.exclude)
            profile = {id(target.variable): default for target in targets}
        else:
            targets, skipped = prunable_weights(model, tuple(named), self.exclude, argument)
        for key, value in named.items():
            for target in prunable_weights(model, (key,), self.exclude, argument)[0]:
                if id(target.variable) not in profile and default is not None:
                    targets.append(target)
                    skipped = [s for s in skipped if s.variable is not target.variable]
                profile[id(target.variable)] = value
        return targets, skipped, profile

    def _refused(self, model: keras.Model, targets: Sequence[PruningTarget]) -> dict[int, str]:
        refused = {}
        for target in targets:
            layout = stored_layout(target.layer, target.variable)
            reason = self.pattern.refusal(layout, tuple(target.variable.shape))
            if reason:
                refused[id(target.variable)] = reason
        if self.pattern == Channel() and targets:
            outputs = channel_criteria.output_layers(model, [target.layer for target in targets])
            for target in targets:
                if id(target.layer) in outputs:
                    reason = "pattern channel: its channels are outputs of the model"
                    refused.setdefault(id(target.variable), reason)
        return refused


def _share(value: Any, name: str) -> float:
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(
            "`sparsity` is the share of weights to prune and must be at least 0 and below 1. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def _rank(key: LayerPattern, model: keras.Model, weights: set[str]) -> int:
    """How particular a pattern is: a class, a regular expression, a layer, a weight."""
    layers = keras_internals.flat_sublayers(model)
    if not isinstance(key, str) or key in {c.__name__ for la in layers for c in type(la).__mro__}:
        return 0
    return 3 if key in weights else 2 if key in {layer.name for layer in layers} else 1


def _bare(key: LayerPattern) -> LayerPattern:
    """A pattern without the prefix that marks it as a regular expression."""
    return key.removeprefix("re:") if isinstance(key, str) else key


def _plain(mapping: Mapping[LayerPattern, float]) -> dict[str, float]:
    return {k.__name__ if isinstance(k, type) else k: value for k, value in mapping.items()}

"""The rows that removing channels contributes to a plan."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import keras

from tfcompress.graph.weights import weights_of
from tfcompress.plan import Plan, weight_row
from tfcompress.pruning.structured.groups import DependencyGroups, dependency_groups

if TYPE_CHECKING:
    from tfcompress.callbacks import StructuredPruning

TECHNIQUE = "shrink"


def channel_rows(model: keras.Model, callback: StructuredPruning) -> Plan:
    """Which weights of a model a `StructuredPruning` callback may make smaller.

    Args:
        model: A built Keras model.
        callback: The callback; it need not have been used.

    Raises:
        ValueError: If the model was never built, or a pattern of the callback matches nothing.
    """
    groups = dependency_groups(
        model, include=callback.include, exclude=callback.exclude, exact=callback.exact
    )
    asked = {callback.goal.name: callback.goal.amount}
    sliced: dict[int, list[str]] = defaultdict(list)
    for group in groups.groups:
        for binding, _ in group.weights:
            sliced[id(binding.owner)].append(f"{group.name} ({group.size})")
    reasons = _reasons(groups)
    rows = []
    for weight in weights_of(model):
        key = id(weight.variable)
        if key in sliced:
            names = " and ".join(dict.fromkeys(sliced[key]))
            rows.append(weight_row(weight, {TECHNIQUE: {**asked, "of": names}}))
        else:
            why = reasons.get(key, "no channels lie along it")
            rows.append(weight_row(weight, skipped={TECHNIQUE: why}))
    return Plan(model.name, tuple(rows))


def _reasons(groups: DependencyGroups) -> dict[int, str]:
    """By `id(variable)`, why the channels along a weight stay."""
    pinned = groups.coupling.channels.reasons()
    found: dict[int, str] = {}
    for binding in groups.bindings:
        why = [pinned[r] for r in groups.roots[binding.channels].tolist() if r in pinned]
        if why:
            found.setdefault(id(binding.owner), why[0])
    return found

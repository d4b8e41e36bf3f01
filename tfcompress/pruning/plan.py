"""The rows that pruning contributes to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from tfcompress.graph.weights import weights_of
from tfcompress.plan import Plan, weight_row
from tfcompress.pruning.criteria import Magnitude
from tfcompress.pruning.targets import prunable_weights

if TYPE_CHECKING:
    from tfcompress.callbacks import MagnitudePruning

TECHNIQUE = "prune"


def pruning_rows(model: keras.Model, callback: MagnitudePruning) -> Plan:
    """What a `MagnitudePruning` callback would do to every weight of a model.

    Args:
        model: A built Keras model.
        callback: The callback; it need not have been used.

    Raises:
        ValueError: If the model was never built, or a pattern of the callback matches nothing.
    """
    targets, skipped = prunable_weights(model, callback.include, callback.exclude)
    pruned = {id(target.variable) for target in targets}
    reasons = {
        id(weight.variable): weight.reason for weight in skipped if weight.variable is not None
    }
    settings: dict[str, Any] = {"sparsity": callback.sparsity, "scope": callback.scope}
    if callback.criterion != Magnitude():
        settings["criterion"] = repr(callback.criterion)
    rows = []
    for weight in weights_of(model):
        key = id(weight.variable)
        if key in pruned:
            rows.append(weight_row(weight, {TECHNIQUE: dict(settings)}))
        else:
            rows.append(weight_row(weight, skipped={TECHNIQUE: reasons.get(key, "not trainable")}))
    return Plan(model.name, tuple(rows))

"""The rows that pruning contributes to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from tfcompress.graph.weights import weights_of
from tfcompress.plan import Plan, weight_row

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
    choice = callback.settings.choose(model, measure=False)
    shares = {id(t.variable): share for t, share in zip(choice.targets, choice.shares)}
    reasons = {id(entry.variable): entry.reason for entry in choice.skipped}
    rows = []
    for weight in weights_of(model):
        key = id(weight.variable)
        if key in shares:
            settings = callback.describe(shares[key])
            rows.append(weight_row(weight, {TECHNIQUE: settings}))
        else:
            rows.append(weight_row(weight, skipped={TECHNIQUE: reasons.get(key, "not trainable")}))
    return Plan(model.name, tuple(rows))

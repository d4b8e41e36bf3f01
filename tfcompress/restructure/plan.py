"""The rows that removing layers contributes to a plan."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.graph import flatten
from tfcompress.graph.selection import Patterns
from tfcompress.graph.weights import weights_of
from tfcompress.plan import Plan, weight_row
from tfcompress.restructure.units import find_units

TECHNIQUE = "remove_layers"


def removal_rows(
    model: keras.Model,
    target: dict[str, Any],
    units: str | None = None,
    exclude: Patterns = None,
) -> Plan:
    """Which weights of a model `remove_layers` may leave out; which it does, data decide.

    Args:
        model: A built Keras model.
        target: The target by its name: `n`, `parameters` or `macs`.
        units: See `remove_layers`.
        exclude: See `remove_layers`.

    Raises:
        ValueError: If the model was never built, nothing can be left out, or a pattern matches
            nothing.
    """
    inside: dict[int, str] = {}
    for unit in find_units(flatten(model), units, exclude):
        for node in unit.nodes:
            for variable in node.layer.weights if node.layer is not None else ():
                inside.setdefault(id(variable), unit.name)
    rows = []
    for weight in weights_of(model):
        name = inside.get(id(weight.variable))
        if name is None:
            rows.append(weight_row(weight, skipped={TECHNIQUE: "not in a part that can go"}))
        else:
            rows.append(weight_row(weight, {TECHNIQUE: {**target, "perhaps with": name}}))
    return Plan(model.name, tuple(rows))

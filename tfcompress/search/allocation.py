"""Spending a budget over layers: an integer program, and descent along curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Option:
    """One thing that can be done to a layer.

    Attributes:
        choice: What it is, for the caller.
        size: Bytes.
        cost: What is made least under a budget of bytes.
        drop: What is limited while the bytes are made least.
    """

    choice: Any
    size: float
    cost: float
    drop: float


def cheapest(
    options: Mapping[str, Sequence[Option]], objective: str, limited: str, limit: float
) -> dict[str, Option]:
    """Choose one option for each layer, least in one figure and limited in another.

    A multiple-choice knapsack, solved to optimality by branch and cut (`scipy.optimize.milp`,
    HiGHS).

    Args:
        options: What can be done to each layer.
        objective: Attribute of `Option` whose sum is made least.
        limited: Attribute whose sum is at most `limit`.
        limit: The budget.

    Returns:
        The chosen option of each layer.

    Raises:
        ValueError: If no choice keeps the budget; the message says what the least is.
    """
    import scipy.optimize

    empty = [layer for layer, choices in options.items() if not choices]
    if empty:
        raise ValueError(f"There is nothing to choose from for: {', '.join(empty)}")
    flat = [(layer, option) for layer, choices in options.items() for option in choices]
    if not flat:
        return {}
    aims = np.array([getattr(option, objective) for _, option in flat], "float64")
    amounts = np.array([getattr(option, limited) for _, option in flat], "float64")
    least = sum(min(getattr(o, limited) for o in choices) for choices in options.values())
    if least > limit:
        raise ValueError(
            f"No choice keeps the budget: the least that is possible is {least:,.6g}. "
            f"Received: {limit:,.6g}"
        )
    layers = {layer: row for row, layer in enumerate(options)}
    one_each = np.zeros((len(layers), len(flat)))
    one_each[[layers[layer] for layer, _ in flat], range(len(flat))] = 1
    # HiGHS' tolerances are absolute: bring both figures to the order of one.
    aim_unit = np.abs(aims).max() or 1.0
    amount_unit = np.abs(amounts).max() or 1.0
    found = scipy.optimize.milp(
        aims / aim_unit,
        integrality=np.ones(len(flat)),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint(amounts[None] / amount_unit, ub=limit / amount_unit),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise ValueError(
            f"The integer program found no choice within {limit:,.6g}: {found.message}"
        )
    return {layer: option for (layer, option), used in zip(flat, found.x) if used > 0.5}


def descend(curves: Mapping[str, Sequence[tuple[float, float]]], target: float) -> dict[str, float]:
    """Gather an amount from several layers where it costs least at the margin.

    Args:
        curves: Points `(amount, cost)` by layer, `(0, 0)` among them, in any order.
        target: What the amounts of all layers add up to.

    Returns:
        The amount by layer.
    """
    steps = []
    for layer, points in curves.items():
        hull = _convex_hull(points)
        for (before, low), (after, high) in itertools.pairwise(hull):
            steps.append(((high - low) / (after - before), layer, after - before))
    amounts = dict.fromkeys(curves, 0.0)
    missing = target
    # Sorting is stable, so the steps of one layer stay in order, also those of one slope.
    for _, layer, amount in sorted(steps, key=lambda step: step[0]):
        amounts[layer] += min(amount, missing)
        missing -= min(amount, missing)
    return amounts


def _convex_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points, by amount, of costs that never fall."""
    rising: list[tuple[float, float]] = []
    highest = 0.0
    for amount, cost in sorted(points):
        highest = max(highest, cost)
        if not np.isfinite(highest):
            break
        hull_point = (amount, highest)
        while len(rising) > 1 and _is_above(rising[-2], rising[-1], hull_point):
            rising.pop()
        rising.append(hull_point)
    return rising


def _is_above(
    first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]
) -> bool:
    """Whether `middle` lies on or above the line from `first` to `last`."""
    return (middle[1] - first[1]) * (last[0] - first[0]) >= (last[1] - first[1]) * (
        middle[0] - first[0]
    )

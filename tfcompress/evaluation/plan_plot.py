"""What a plan does to the weights, by their size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tfcompress.evaluation.axes import legend_above, new_axes, style
from tfcompress.evaluation.bars import largest, name_rows, write_behind
from tfcompress.evaluation.figures import write_count
from tfcompress.evaluation.palette import ENTRIES
from tfcompress.evaluation.plots import MOST_BARS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.plan import Plan, PlanRow


def draw_plan(plan: Plan, ax: Axes | None = None) -> Axes:
    """Draw a bar for each weight: its elements, coloured by what is done to it.

    Args:
        plan: What to draw.
        ax: Axes to draw into. Defaults to a new figure.
    """
    weights = [row for row in plan.rows if row.kind == "weight"]
    rows = largest(weights, MOST_BARS, _size)
    title = f"the {MOST_BARS} largest weights" if len(rows) < len(weights) else ""
    ax = new_axes(6.5, 1.3 + 0.24 * len(rows)) if ax is None else ax
    style(ax)
    ax.set_title(title, loc="left")
    kinds = list(dict.fromkeys(_done(row) for row in rows))
    # Grey stands for what is left alone, as for a baseline in a report.
    named = [kind for kind in kinds if kind]
    tones = {kind: ENTRIES[1 + i % (len(ENTRIES) - 1)].light for i, kind in enumerate(named)}
    tones[""] = ENTRIES[0].light
    for kind in kinds:
        places = [i for i, row in enumerate(rows) if _done(row) == kind]
        sizes = [_size(rows[i]) for i in places]
        ax.barh(places, sizes, 0.68, color=tones[kind], label=kind or "left alone")
    for place, row in enumerate(rows):
        write_behind(ax, _size(row), place, f" {write_count(_size(row))}")
    # Weights of one model differ by orders of magnitude.
    ax.set_xscale("log")
    ax.set_xlim(0.8, 4 * max(map(_size, rows), default=1))
    name_rows(ax, [row.tensor for row in rows], 34)
    ax.grid(False, axis="y")
    ax.set_xlabel("elements")
    legend_above(ax, 3)
    return ax


def _done(row: PlanRow) -> str:
    return " + ".join(row.actions)


def _size(row: PlanRow) -> int:
    return math.prod(size or 1 for size in row.shape)

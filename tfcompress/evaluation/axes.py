"""Axes with the look of the report."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tfcompress.evaluation.palette import GRID, MUTED, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT_SIZE = 10


def new_axes(width: float, height: float) -> Axes:
    """Return axes on a figure of that size in inches.

    In a notebook the figure is pyplot's, which shows it below the cell. Elsewhere it belongs to
    nobody, so that it needs no display and is freed with its last reference.
    """
    if "ipykernel" in sys.modules:
        import matplotlib.pyplot

        return matplotlib.pyplot.figure(figsize=(width, height), layout="constrained").add_subplot()
    return plain_axes(width, height)


def plain_axes(width: float, height: float) -> Axes:
    """Return axes on a figure that pyplot does not know."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def small_axes(width: float, height: float) -> Axes:
    """Return axes as `plain_axes` does, with room for a label below and nothing at the sides.

    Finding out how much room is needed takes longer than drawing a plot this small.
    """
    from matplotlib.figure import Figure

    bottom = 0.48 / height
    return Figure(figsize=(width, height)).add_axes((0.03, bottom, 0.94, 0.97 - bottom))


def legend_above(ax: Axes, columns: int) -> None:
    """Write the legend over the right upper corner, in so many columns."""
    ax.legend(
        frameon=False,
        fontsize=FONT_SIZE - 1,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=columns,
        labelcolor=TEXT.light,
    )


def style(ax: Axes) -> None:
    """Give axes the look of the report: light grid, no frame, quiet labels."""
    ax.set_facecolor("none")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID.light)
    ax.tick_params(
        colors=MUTED.light, labelsize=FONT_SIZE - 1, length=0, which="both", labelcolor=MUTED.light
    )
    ax.grid(True, color=GRID.light, linewidth=0.8)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_color(MUTED.light)
        axis.label.set_size(FONT_SIZE)
    ax.title.set_color(TEXT.light)
    ax.title.set_size(FONT_SIZE)

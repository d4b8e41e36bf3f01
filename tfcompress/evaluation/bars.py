"""Rows of horizontal bars: which ones are shown, their names, and the texts behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from tfcompress.evaluation.axes import FONT_SIZE
from tfcompress.evaluation.palette import TEXT
from tfcompress.evaluation.short_names import clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Item = TypeVar("Item")


def largest(items: Sequence[Item], most: int, size: Callable[[Item], float]) -> list[Item]:
    """Return the largest items, in their order.

    Args:
        items: What there is.
        most: How many to return at most.
        size: Size of an item.
    """
    by_size = sorted(range(len(items)), key=lambda i: -size(items[i]))
    return [items[i] for i in sorted(by_size[:most])]


def name_rows(ax: Axes, names: Sequence[str], width: int) -> None:
    """Write the names of rows beside them, the first one at the top.

    Args:
        ax: The axes.
        names: A name for each row.
        width: Letters that a name has room for.
    """
    ax.set_yticks(range(len(names)), [clip(name, width) for name in names])
    ax.tick_params(axis="y", labelcolor=TEXT.light, labelsize=FONT_SIZE - 2)
    ax.set_ylim(len(names) - 0.4, -0.6)


def write_behind(ax: Axes, x: float, row: int, text: str) -> None:
    """Write a text into a row, from `x` on."""
    ax.text(x, row, text, va="center", color=TEXT.light, fontsize=FONT_SIZE - 2)

"""Which channels of a model can go, and which depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfcompress.evaluation.axes import legend_above, new_axes, style
from tfcompress.evaluation.bars import largest, name_rows, write_behind
from tfcompress.evaluation.palette import ENTRIES
from tfcompress.evaluation.plots import MOST_BARS
from tfcompress.evaluation.short_names import clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.pruning.structured import DependencyGroups


def draw_groups(groups: DependencyGroups, ax: Axes | None = None) -> Axes:
    """Draw a bar for each group: its channels, grey for those that cannot go.

    Args:
        groups: What to draw.
        ax: Axes to draw into. Defaults to a new figure.
    """
    from matplotlib.ticker import MaxNLocator

    every = [
        (group.name, group.size, f"{group.size} {group.word} in {len(group.weights)} weights", True)
        for group in groups.groups
    ]
    every += [
        (pinned.layer, pinned.count, f"{pinned.count} {pinned.word}: {pinned.reason}", False)
        for pinned in groups.pinned
    ]
    rows = largest(every, MOST_BARS, lambda row: row[1])
    title = f"the {MOST_BARS} largest groups" if len(rows) < len(every) else ""
    ax = new_axes(7.5, 1.3 + 0.24 * len(rows)) if ax is None else ax
    style(ax)
    ax.set_title(title, loc="left")
    for can_go, label in ((True, "can go"), (False, "cannot go")):
        places = [i for i, row in enumerate(rows) if row[3] == can_go]
        if places:
            # Grey stands for what is left alone, as for a baseline in a report.
            tone = ENTRIES[int(can_go)].light
            ax.barh(places, [rows[i][1] for i in places], 0.68, color=tone, label=label)
    widest = max((size for _, size, _, _ in rows), default=1)
    for place, (_, size, text, _) in enumerate(rows):
        write_behind(ax, size + 0.01 * widest, place, clip(text, 44))
    # Room for the texts behind the bars.
    ax.set_xlim(0, 2.0 * widest)
    ticks = MaxNLocator(5, integer=True).tick_values(0, widest)
    ax.set_xticks([tick for tick in ticks if 0 <= tick <= widest])
    name_rows(ax, [name for name, _, _, _ in rows], 34)
    ax.grid(False, axis="y")
    ax.set_xlabel("channels, heads or units", loc="left")
    if rows:
        legend_above(ax, 2)
    return ax

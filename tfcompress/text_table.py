"""Tables of text that fit a terminal: what is too wide goes on in the next line of its cell."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80
LEAST = 12
GAP = "  "


def render(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Return a table of at most `width` columns.

    Columns are as wide as their longest text while there is room; then the widest are wrapped.

    Args:
        header: Headings.
        rows: As many texts each.
        width: Columns of the terminal. Defaults to 80.
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    least = [min(w, max(LEAST, len(name))) for w, name in zip(widths, header)]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        room = [now - low for now, low in zip(widths, least)]
        widest = max(range(len(widths)), key=lambda i: (room[i] > 0, widths[i]))
        if room[widest] <= 0:
            break
        cut = min(excess, room[widest])
        # Down to the next widest at most, so that the widest columns share the loss.
        others = [w for i, w in enumerate(widths) if i != widest and room[i] > 0]
        cut = min(cut, max(1, widths[widest] - max(others, default=0)))
        widths[widest] -= cut
        excess -= cut
    rule = ["─" * w for w in widths]
    return "\n".join(text for line in (header, rule, *rows) for text in _lines(line, widths))


def render_figures(rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """Return the lines of a table of names and figures.

    The ends of long names are shown where the figures leave too little room in `width` columns.

    Args:
        rows: The name and the figures of each row, headings first.
        width: Columns of the terminal. Defaults to 80.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    rest = sum(widths[1:]) + len(GAP) * len(widths[1:])
    widths[0] = min(widths[0], max(LEAST, width - rest))
    lines = [
        GAP.join(
            [
                _end(row[0], widths[0]).ljust(widths[0]),
                *(figure.rjust(own) for figure, own in zip(row[1:], widths[1:])),
            ]
        )
        for row in rows
    ]
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def _end(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [
        textwrap.wrap(cell, width, subsequent_indent=" ", break_on_hyphens=False) or [""]
        for cell, width in zip(cells, widths)
    ]
    height = max(map(len, wrapped))
    columns = [[*lines, *[""] * (height - len(lines))] for lines in wrapped]
    return [
        GAP.join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
        for line in zip(*columns)
    ]

"""A sensitivity search as text, as HTML and as a heat map."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from tfcompress import text_table
from tfcompress.evaluation.palette import MUTED, TEXT, WORSE
from tfcompress.search.method_registry import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.search.curves import Sensitivity, SensitivityPoint

FIGURES = ("drop", "sqnr")
STRONGEST = 0.75
MOST_NUMBERED = 40

_SHARES = ("accuracy", "agreement")


def _cell(found: Sensitivity, point: SensitivityPoint, figure: str) -> str:
    if figure == "sqnr":
        return f"{round(point.sqnr)}"
    if not math.isfinite(point.drop):
        return "inf"
    if found.metric in _SHARES:
        return f"{round(100 * point.drop, 1) + 0.0:.1f}"
    return f"{point.drop:.2g}"


def _caption(found: Sensitivity, figure: str = "drop") -> str:
    if figure == "sqnr":
        return "SQNR of the outputs, dB"
    if found.metric in _SHARES:
        return f"points of {found.metric} lost"
    word = "lost" if found.better > 0 else "gained"
    return f"{found.metric} {word}"


def _title(found: Sensitivity) -> str:
    share = found.metric in _SHARES
    baseline = f"{100 * found.baseline:.2f} %" if share else f"{found.baseline:.4g}"
    return (
        f"Sensitivity of '{found.model}': {_caption(found)}, one layer at a time\n"
        f"{found.samples:,} samples, {found.metric} {baseline}"
    )


def _tables(found: Sensitivity) -> list[list[list[str]]]:
    """For each method, rows of cells, the heading first."""
    tables = []
    for method in found.methods:
        levels = found.levels(method)
        kind = METHODS[method]
        head = [kind.heading, "weights", *(kind.write(level) for level in levels)]
        rows = [head]
        for layer, points in found.curves(method).items():
            by_level = {point.level: point for point in points}
            cells = [_cell(found, by_level[level], "drop") for level in levels]
            rows.append([layer, f"{points[0].weights:,}", *cells])
        tables.append(rows)
    return tables


def render(found: Sensitivity) -> str:
    """Return a table for each method, in 80 columns where the levels leave room for a name."""
    lines = _title(found).splitlines()
    for rows in _tables(found):
        lines += ["", *text_table.render_figures(rows)]
    return "\n".join(lines)


def render_html(found: Sensitivity) -> str:
    """Return a coloured table for each method, for a notebook."""
    parts = [f"<p>{html.escape(_title(found)).replace(chr(10), '<br>')}</p>"]
    for method, rows in zip(found.methods, _tables(found)):
        worst = _worst(found, method, "drop")
        curves = list(found.curves(method).values())
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
        body = []
        for row, points in zip(rows[1:], curves):
            by_level = {point.level: point for point in points}
            strengths = [
                _strength(by_level[level], "drop", worst) for level in found.levels(method)
            ]
            cells = "".join(
                f'<td style="background:rgba(194,47,68,{strength:.2f});text-align:right">'
                f"{html.escape(cell)}</td>"
                for cell, strength in zip(row[2:], strengths)
            )
            name, weights = (html.escape(cell) for cell in row[:2])
            body.append(f"<tr><th>{name}</th><td>{weights}</td>{cells}</tr>")
        parts.append(f"<table><tr>{head}</tr>{''.join(body)}</table>")
    return "".join(parts)


def draw(found: Sensitivity, method: str, figure: str, ax: Axes | None) -> Axes:
    """Draw the heat map of a method; see `Sensitivity.plot`."""
    from matplotlib.colors import to_rgb

    from tfcompress.evaluation.plots import FONT_SIZE, new_axes, style

    if figure not in FIGURES:
        raise ValueError(
            f"`figure` must be one of {', '.join(map(repr, FIGURES))}. Received: {figure!r}"
        )
    curves, levels = found.curves(method), found.levels(method)
    if ax is None:
        ax = new_axes(1.6 + 0.62 * len(levels), 0.9 + 0.27 * len(curves))
    style(ax)
    worst = _worst(found, method, figure)
    colour = to_rgb(WORSE.light)
    image = []
    for row, points in enumerate(curves.values()):
        by_level = {point.level: point for point in points}
        image.append([(*colour, _strength(by_level[level], figure, worst)) for level in levels])
        for column, level in enumerate(levels):
            if len(curves) <= MOST_NUMBERED:
                text = _cell(found, by_level[level], figure)
                ax.text(column, row, text, ha="center", va="center", fontsize=8, color=TEXT.light)
    # Colour by transparency, so that one picture suits a light and a dark page.
    ax.imshow(image, interpolation="none", aspect="auto")
    kind = METHODS[method]
    ax.set_xticks(range(len(levels)), [kind.write(level) for level in levels])
    ax.set_yticks(range(len(curves)), list(curves))
    ax.set_xlabel(kind.heading)
    ax.set_title(_caption(found, figure), color=MUTED.light, fontsize=FONT_SIZE, loc="left")
    ax.grid(False)
    return ax


def _worst(found: Sensitivity, method: str, figure: str) -> float:
    if figure == "sqnr":
        return 40.0
    drops = [p.drop for points in found.curves(method).values() for p in points]
    return max([d for d in drops if math.isfinite(d)], default=0.0)


def _strength(point: SensitivityPoint, figure: str, worst: float) -> float:
    """Strength of a cell's colour; the root keeps small losses visible."""
    if figure == "sqnr":
        share = (worst - point.sqnr) / worst
    elif not math.isfinite(point.drop):
        share = 1.0
    else:
        share = math.sqrt(max(point.drop, 0.0) / worst) if worst > 0 else 0.0
    return STRONGEST * min(1.0, max(0.0, share))

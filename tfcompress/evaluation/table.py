"""The report as plain text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tfcompress.evaluation.figures import GROUPS, Figure, write_delta, write_value

if TYPE_CHECKING:
    from tfcompress.evaluation.report import Report

LONGEST_NAME = 22
WIDTH = 80
HEADINGS = {"Quality": "quality (%)", "Size": "size", "Latency": "latency (ms)"}


def render(report: Report) -> str:
    """Return the report's figures as text of at most 80 columns.

    One table for each group of figures, a row an entry; behind each value its difference to the
    baseline. A table that is too wide goes on below.
    """
    lines = _wrapped(
        f"{report.task} on {report.data}: {report.samples:,} samples, "
        f"deltas to {report.baseline.name!r}"
    )
    for group in GROUPS:
        figures = [figure for figure in report.figures(group) if figure.brief]
        if figures:
            lines += ["", *_table(report, group, figures)]
    notes = [line for note in report.notes() for line in _wrapped(note)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _table(report: Report, group: str, figures: list[Figure]) -> list[str]:
    heading = HEADINGS[group]
    if group == "Quality" and report.task == "regression":
        heading = "quality"
    names = [heading, *(_clip(entry.name) for entry in report.entries)]
    columns = [_align_left(names)]
    base = report.baseline
    for figure in figures:
        values, deltas = [figure.label], [""]
        for entry in report.entries:
            value = entry.figures.get(figure.key)
            values.append(write_value(figure, value))
            same = entry is base
            deltas.append("" if same else write_delta(figure, value, base.figures[figure.key]))
        columns.append(_cells(values, deltas))
    if group == "Latency":
        runtimes = [entry.latency.described if entry.latency else "" for entry in report.entries]
        columns.append(_align_left(["runtime", *runtimes]))
    lines: list[str] = []
    for part in _balanced(columns):
        rows = ["  ".join(cells).rstrip() for cells in zip(*part)]
        width = max(len(row) for row in rows)
        lines += [*([""] if lines else []), rows[0], "-" * width, *rows[1:]]
    return lines


def _balanced(columns: list[list[str]]) -> list[list[list[str]]]:
    """Break columns into as few tables as fit, of about the same width."""
    parts = _parts(columns, WIDTH)
    for width in range(1, WIDTH):
        narrower = _parts(columns, width)
        if len(narrower) == len(parts):
            return narrower
    return parts


def _parts(columns: list[list[str]], limit: int) -> list[list[list[str]]]:
    """Break columns into tables, each with the column of names before it."""
    names, *others = columns
    parts = [[names]]
    width = len(names[0])
    for column in others:
        width += 2 + len(column[0])
        if width > limit and len(parts[-1]) > 1:
            parts.append([names])
            width = len(names[0]) + 2 + len(column[0])
        parts[-1].append(column)
    return parts


def _cells(values: list[str], deltas: list[str]) -> list[str]:
    """Right-align the values under their heading, and the deltas behind them."""
    behind = max(len(delta) for delta in deltas)
    gap = 1 if behind else 0
    before = max(len(value) for value in values[1:])
    before = max(before, len(values[0]) - behind - gap)
    heading = values[0].rjust(before + gap + behind)
    cells = [
        value.rjust(before) + " " * gap + delta.rjust(behind)
        for value, delta in zip(values[1:], deltas[1:])
    ]
    return [heading, *cells]


def _align_left(texts: list[str]) -> list[str]:
    width = max(len(text) for text in texts)
    return [text.ljust(width) for text in texts]


def _clip(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."

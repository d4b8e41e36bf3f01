"""The report's plots, drawn with matplotlib's object interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.axes import FONT_SIZE, new_axes, plain_axes, style
from tfcompress.evaluation.bars import largest, name_rows, write_behind
from tfcompress.evaluation.figures import figure, write_bytes, write_count, write_value
from tfcompress.evaluation.kernels import is_kernel
from tfcompress.evaluation.layer_plots import (
    MOST_LAYERS,
    draw_calibration,
    draw_histogram,
    draw_layers,
)
from tfcompress.evaluation.matrices import draw_confusion
from tfcompress.evaluation.palette import GRID, GROUND, MUTED, TEXT, entry_marker, entry_tone
from tfcompress.evaluation.results import EntryResult, LayerWeight
from tfcompress.evaluation.short_names import clip, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.evaluation.report import Report

MOST_BARS = 40
# Longer names stand below each other in a legend.
LONGEST_BESIDE = 16


def draw(
    report: Report,
    kind: str = "size",
    ax: Axes | None = None,
    entry: str | None = None,
    legend: bool = True,
    weight: str | None = None,
    shown: bool = True,
) -> Axes:
    """Draw one plot of a report; see `Report.plot`.

    Args:
        report: What to draw.
        kind: One of `KINDS`.
        ax: Axes to draw into. Defaults to a new figure.
        entry: Entry to show, for the kinds that show one. Defaults to the last.
        legend: Whether to say in the plot which colour is which entry.
        weight: Weight to show, for the kind that shows one. Defaults to the largest.
        shown: Whether a notebook is to show a new figure below the cell.

    Raises:
        ValueError: If the kind is unknown or the report has nothing of it.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(map(repr, KINDS))}. Received: {kind!r}")
    result = report.entries[-1] if entry is None else report[entry]
    reason = _missing(report, kind, result)
    if reason:
        raise ValueError(f"There is no {kind!r} plot to draw: {reason}.")
    height = 3.1
    columns = 2 if max(len(item.name) for item in report.entries) <= LONGEST_BESIDE else 1
    has_legend = legend and kind in ("size", "gzip", "speed", "distribution", "calibration")
    if has_legend:
        height += 0.22 * max(0, -(-len(report.entries) // columns) - 2)
    if kind == "latency":
        height = 0.75 + 0.46 * len(report.entries)
    elif kind == "sparsity":
        height = 0.75 + 0.27 * min(len(kernels(result)), MOST_BARS)
    elif kind == "layers":
        height = 0.9 + 0.34 * min(len(result.layers), MOST_LAYERS)
    elif kind == "confusion":
        height = 4.0
    if ax is None:
        ax = new_axes(4.2, height) if shown else plain_axes(4.2, height)
    style(ax)
    if kind == "weights":
        draw_histogram(report, ax, result, weight)
    else:
        KINDS[kind](report, ax, result)
    if has_legend:
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0, -0.6 / height),
            ncols=columns,
            frameon=False,
            fontsize=FONT_SIZE - 1,
            labelcolor=TEXT.light,
        )
    return ax


def available(report: Report, kind: str, entry: str | None = None) -> bool:
    """Return whether the report has what that plot shows."""
    result = report.entries[-1] if entry is None else report[entry]
    return not _missing(report, kind, result)


def _quality(report: Report) -> str:
    return "accuracy" if report.task == "classification" else "mae"


def _trade_off(key: str) -> Callable[[Report, Axes, EntryResult], None]:
    """Return a plot of quality against the figure `key`."""

    def draw_trade_off(report: Report, ax: Axes, _: EntryResult) -> None:
        quality = _quality(report)
        points = []
        for index, entry in enumerate(report.entries):
            x, y = entry.figures.get(key), entry.figures.get(quality)
            if x is None or y is None:
                continue
            y = 100 * y if quality == "accuracy" else y
            points.append((x, y))
            tone = entry_tone(index).light
            if quality == "accuracy":
                share = y / 100
                error = 100 * np.sqrt(share * (1 - share) / report.samples)
                ax.errorbar(x, y, error, color=tone, alpha=0.45, linewidth=1.4, zorder=2)
            ax.plot(
                x,
                y,
                entry_marker(index),
                color=tone,
                # Smaller ones are drawn later: of entries in one place, each keeps a rim.
                markersize=max(10 - 0.5 * index, 7.5),
                markeredgecolor=GROUND.light,
                markeredgewidth=1,
                label=entry.name,
                zorder=3,
            )
        _draw_front(report, ax, key, quality)
        _scale_x(ax, [x for x, _ in points], key)
        low, high = ax.get_ylim()
        least = 1.0 if quality == "accuracy" else 0.0
        if high - low < least:
            # Without this, a difference of two images looks like a cliff.
            middle = (high + low) / 2
            ax.set_ylim(middle - least / 2, middle + least / 2)
        if quality == "accuracy":
            ax.set_ylim(top=min(ax.get_ylim()[1], 101))
            ax.set_ylabel("accuracy, %")
        else:
            ax.set_ylabel("MAE, less is better")
        ax.set_xlabel(_AXIS_LABELS[key])

    return draw_trade_off


_AXIS_LABELS = {
    "bytes": "file size",
    "gzip_bytes": "file size after gzip",
    "latency_ms": "median latency, ms",
}


def _draw_front(report: Report, ax: Axes, key: str, quality: str) -> None:
    """Join the entries that no other entry beats in both figures."""
    front = [report[name].figures for name in report.front(key)]
    if len(front) > 1:
        xs = [figures[key] or 0.0 for figures in front]
        ys = [
            (100 if quality == "accuracy" else 1) * (figures[quality] or 0.0) for figures in front
        ]
        ax.plot(xs, ys, drawstyle="steps-post", color=MUTED.light, lw=1, ls=(0, (4, 3)), zorder=1)


def _scale_x(ax: Axes, values: list[float], key: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    if low > 0 and high / low > 8:
        low, high = low / 1.5, high * 1.5
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        inside = [tick for tick in ticks if low <= tick <= high]
        while len(inside) > 5:
            inside = inside[::2] if len(inside) < 9 else inside[::3]
        ax.xaxis.set_major_locator(FixedLocator(inside))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.set_xlim(0, high * 1.12)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    in_bytes = "bytes" in key
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: _short_bytes(x) if in_bytes else f"{x:.3g}")
    )


def _short_bytes(value: float) -> str:
    return write_bytes(value).replace(".0 ", " ")


def _draw_latency(report: Report, ax: Axes, _: EntryResult) -> None:
    from matplotlib.ticker import MaxNLocator

    timed = [(i, e) for i, e in enumerate(report.entries) if e.latency is not None]
    longest = max(entry.figures["latency_p95_ms"] or 0 for _, entry in timed)
    # On a busy machine the lines would leave no room for the bars; the tables have the figures.
    longest = min(longest, 3 * max(entry.figures["latency_ms"] or 0 for _, entry in timed))
    for row, (index, entry) in enumerate(timed):
        median, p95 = entry.figures["latency_ms"] or 0.0, entry.figures["latency_p95_ms"] or 0.0
        is_long, p95 = p95 > longest, min(p95, longest)
        tone = entry_tone(index).light
        ax.barh(row, median, height=0.56, color=tone, zorder=2)
        ax.plot([median, p95], [row, row], color=tone, linewidth=1.6, alpha=0.7, zorder=3)
        end = ">" if is_long else "|"
        ax.plot(p95, row, end, color=tone, markersize=5 if is_long else 8, mew=1.6, alpha=0.7)
        ax.text(
            p95 + 0.03 * longest,
            row,
            f"{write_value(figure('latency_ms'), median)} ms",
            va="center",
            color=TEXT.light,
            fontsize=FONT_SIZE - 1,
        )
    ax.set_yticks(range(len(timed)), [clip(entry.name, 22) for _, entry in timed])
    ax.tick_params(axis="y", labelcolor=TEXT.light)
    ax.set_ylim(len(timed) - 0.5, -0.5)
    ax.set_xlim(0, longest * 1.28)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(False, axis="y")
    beyond = any((entry.figures["latency_p95_ms"] or 0) > longest for _, entry in timed)
    ax.set_xlabel(f"median, line to p95{' (arrow: beyond)' if beyond else ''}, ms")


def _draw_distribution(report: Report, ax: Axes, _: EntryResult) -> None:
    every: list[float] = []
    for index, entry in enumerate(report.entries):
        if entry.latency is None:
            continue
        values = np.sort(entry.latency.samples)
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        ax.step(
            values, share, where="post", color=entry_tone(index).light, lw=1.8, label=entry.name
        )
        # The slowest few would squeeze everything else into the corner.
        every += [float(values[0]), float(np.percentile(values, 96))]
    _scale_x(ax, every, "latency_ms")
    if ax.get_xscale() == "linear":
        ax.set_xlim(min(every) * 0.9, max(every) * 1.05)
    ax.set_ylim(0, 102)
    ax.set_xlabel("latency, ms")
    ax.set_ylabel("invocations below, %")


def kernels(entry: EntryResult) -> list[LayerWeight]:
    """Return the weights that pruning is about: not biases, nor vectors of any kind."""
    return [w for w in entry.weights if is_kernel(w.name, w.shape, w.operator)]


def _draw_sparsity(report: Report, ax: Axes, entry: EntryResult) -> None:
    every = kernels(entry)
    shown = largest(every, MOST_BARS, lambda weight: weight.size)
    if len(shown) < len(every):
        ax.set_title(f"the {MOST_BARS} largest weights", loc="left")
    tone = entry_tone(report.entries.index(entry)).light
    for row, weight in enumerate(shown):
        share = 100 * weight.sparsity
        ax.barh(row, 100, height=0.62, color=GRID.light, zorder=1)
        ax.barh(row, share, height=0.62, color=tone, zorder=2)
        write_behind(ax, 103, row, f"{share:.0f}% of {write_count(weight.size)}")
    name_rows(ax, [short_name(weight.name) for weight in shown], 24)
    ax.set_xlim(0, 138)
    ax.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _missing(report: Report, kind: str, entry: EntryResult) -> str:
    """Return why the report does not have what a plot shows; empty if it does."""
    keys = {"size": "bytes", "gzip": "gzip_bytes", "speed": "latency_ms", "latency": "latency_ms"}
    key = keys.get(kind, "latency_ms" if kind == "distribution" else None)
    if key and all(e.figures.get(key) is None for e in report.entries):
        return f"no entry has a {figure(key).meaning[0].lower()}{figure(key).meaning[1:-1]}"
    if kind == "calibration" and all(e.calibration is None for e in report.entries):
        return "no entry predicts probabilities"
    if kind == "layers" and not entry.layers:
        return f"{entry.name!r} has no layers with weights"
    if kind in ("weights", "sparsity") and not kernels(entry):
        return f"{entry.name!r} has no kernels{', only vectors' if entry.weights else ''}"
    if kind == "weights" and not entry.histograms:
        return f"the kernels of {entry.name!r} are stored sparsely or as a Keras model's integers"
    if kind == "confusion" and entry.confusion is None:
        return f"{entry.name!r} has no confusion matrix"
    return ""


KINDS: dict[str, Callable[..., None]] = {
    "size": _trade_off("bytes"),
    "gzip": _trade_off("gzip_bytes"),
    "speed": _trade_off("latency_ms"),
    "latency": _draw_latency,
    "distribution": _draw_distribution,
    "calibration": draw_calibration,
    "layers": draw_layers,
    "sparsity": _draw_sparsity,
    "weights": draw_histogram,
    "confusion": draw_confusion,
}

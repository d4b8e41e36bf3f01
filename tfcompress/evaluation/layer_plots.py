"""Plots of what is inside an entry: its layers, its weights, its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.axes import new_axes, style
from tfcompress.evaluation.bars import largest, name_rows, write_behind
from tfcompress.evaluation.figures import write_bytes, write_count
from tfcompress.evaluation.palette import ENTRIES, GRID, MUTED, TEXT, entry_marker, entry_tone
from tfcompress.evaluation.results import EntryResult, LayerResult, WeightHistogram
from tfcompress.evaluation.short_names import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.evaluation.report import Report

MOST_LAYERS = 30


def draw_layers(report: Report, ax: Axes, entry: EntryResult) -> None:
    """Draw each layer's share of an entry's bytes and multiplications."""
    draw_shares(entry.layers, ax, entry_tone(report.entries.index(entry)).light)


def draw_shares(
    layers: Sequence[LayerResult], ax: Axes | None = None, tone: str = ENTRIES[1].light
) -> Axes:
    """Draw each layer's share of the bytes and of the multiplications.

    Args:
        layers: The layers of a model or file.
        ax: Axes to draw into. Defaults to a new figure.
        tone: Colour of the bytes.
    """
    shown = largest(layers, MOST_LAYERS, lambda layer: layer.bytes)
    if ax is None:
        ax = new_axes(6.0, 0.9 + 0.34 * len(shown))
        style(ax)
    if len(shown) < len(layers):
        ax.set_title(f"the {MOST_LAYERS} largest layers", loc="left")
    bytes_in_all = sum(layer.bytes for layer in layers) or 1
    macs_in_all = sum(layer.macs or 0 for layer in layers) or 1
    shares = [
        (100 * layer.bytes / bytes_in_all, 100 * (layer.macs or 0) / macs_in_all) for layer in shown
    ]
    longest = max(map(max, shares), default=0.0)
    for row, (layer, (size, macs)) in enumerate(zip(shown, shares)):
        ax.barh(row - 0.2, size, 0.36, color=tone, label="bytes" if not row else None)
        ax.barh(row + 0.2, macs, 0.36, color=MUTED.light, label="MACs" if not row else None)
        text = write_bytes(layer.bytes)
        if layer.macs:
            text += f", {write_count(layer.macs)} MACs"
        # SVG drops a space at the start of a text.
        write_behind(ax, max(size, macs) + 0.02 * longest, row, text)
    name_rows(ax, [short_name(layer.name) for layer in shown], 22)
    # Room for the texts behind the bars.
    ax.set_xlim(0, 1.75 * (longest or 1.0))
    ax.set_xticks([tick for tick in (0, 20, 40, 60, 80, 100) if tick <= longest * 1.1])
    ax.grid(False, axis="y")
    ax.set_xlabel("% of bytes (upper), of MACs (lower)", loc="left")
    return ax


def draw_histogram(report: Report, ax: Axes, entry: EntryResult, weight: str | None = None) -> None:
    """Draw the values of one weight, over the outline of its counterpart in the baseline.

    Args:
        report: The report that the entry is in.
        ax: Where to draw.
        entry: The entry.
        weight: Its weight. Defaults to the one with the most values.

    Raises:
        ValueError: If the entry has no histogram of that weight.
    """
    from matplotlib.ticker import MaxNLocator

    histogram = _chosen(entry, weight)
    tone = entry_tone(report.entries.index(entry)).light
    edges = histogram.low + histogram.width * np.arange(len(histogram.after) + 1)
    if histogram.quantized and histogram.codes is not None:
        _draw_grid(ax, histogram)
    ax.stairs(histogram.after, edges, fill=True, color=tone, alpha=0.75, label=entry.name)
    if histogram.before is not None:
        ax.stairs(histogram.before, edges, color=TEXT.light, lw=1, label=report.baseline.name)
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=histogram.quantized))
    ax.set_yticks([])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("steps of the scale" if histogram.quantized else "value")


def _draw_grid(ax: Axes, histogram: WeightHistogram) -> None:
    """Mark the codes: each where they are few, every sixteenth otherwise."""
    codes = histogram.codes or 0
    most = codes // 2
    every = 1 if codes <= 31 else 16
    marked = range(-(most // every) * every, most + 1, every)
    # From bottom to top of the axes, whatever the counts are.
    across = ax.get_xaxis_transform()
    ax.vlines(marked, 0, 1, color=GRID.light, lw=0.8, zorder=0, transform=across)


def _chosen(entry: EntryResult, weight: str | None) -> WeightHistogram:
    if weight is None:
        return max(entry.histograms, key=lambda histogram: sum(histogram.after))
    for histogram in entry.histograms:
        if weight in (histogram.name, short_name(histogram.name)):
            return histogram
    known = ", ".join(repr(short_name(histogram.name)) for histogram in entry.histograms)
    raise ValueError(
        f"{entry.name!r} has histograms of its largest weights: {known}. "
        f"Received: weight={weight!r}"
    )


def draw_calibration(report: Report, ax: Axes, _: EntryResult) -> None:
    """Draw accuracy against confidence; what is under the diagonal is too sure of itself."""
    ax.plot([0, 100], [0, 100], color=MUTED.light, lw=1, ls=(0, (4, 3)))
    for index, entry in enumerate(report.entries):
        if entry.calibration is None:
            continue
        # A bin of a few samples says nothing.
        least = max(5, report.samples // 200)
        bins = [item for item in entry.calibration if item.samples >= least]
        ax.plot(
            [100 * item.confidence for item in bins],
            [100 * item.accuracy for item in bins],
            f"-{entry_marker(index)}",
            color=entry_tone(index).light,
            markersize=4,
            lw=1.3,
            label=entry.name,
        )
    ax.set_xlim(0, 102)
    ax.set_ylim(0, 102)
    ax.set_xlabel("confidence, %")
    ax.set_ylabel("accuracy, %")

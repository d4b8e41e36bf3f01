"""Confusion matrices, and what changed in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.palette import BETTER, ENTRIES, TEXT, WORSE, Tone
from tfcompress.evaluation.results import EntryResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfcompress.evaluation.report import Report

MOST_NUMBERED = 12
MOST_NAMED = 30
STRONGEST = 0.6
RIGHT = ENTRIES[1]


def draw_confusion(report: Report, ax: Axes, entry: EntryResult) -> None:
    """Draw the counts of one entry: a row a label, a column a prediction.

    Right predictions and mistakes have their own colours, by share of the row's samples; the root
    keeps single mistakes visible.
    """
    counts = np.asarray(entry.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    _draw(report, ax, np.sqrt(shares), np.where(diagonal, 0, 1), (RIGHT, WORSE), counts, "{:d}")


def draw_confusion_change(report: Report, ax: Axes, entry: EntryResult) -> None:
    """Draw the difference of an entry's confusion matrix to the baseline's."""
    change = np.asarray(entry.confusion) - np.asarray(report.baseline.confusion)
    diagonal = np.eye(len(change), dtype=bool)
    worse = np.where(diagonal, change < 0, change > 0)
    strength = np.sqrt(np.abs(change) / max(np.abs(change).max(), 1))
    _draw(report, ax, strength, worse.astype(int), (BETTER, WORSE), change, "{:+d}")


def _draw(
    report: Report,
    ax: Axes,
    strength: np.ndarray,
    which: np.ndarray,
    tones: tuple[Tone, Tone],
    numbers: np.ndarray,
    form: str,
) -> None:
    from matplotlib.colors import to_rgb

    classes = len(numbers)
    # Colour by transparency, so that one picture suits a light and a dark page.
    colours = np.array([to_rgb(tone.light) for tone in tones])[which]
    ax.imshow(
        np.concatenate([colours, STRONGEST * strength[..., None]], axis=-1), interpolation="none"
    )
    if classes <= MOST_NUMBERED:
        for row, column in zip(*np.nonzero(numbers)):
            ax.text(
                column,
                row,
                form.format(numbers[row, column]),
                ha="center",
                va="center",
                fontsize=8 if numbers.max() < 1000 else 7,
                color=TEXT.light,
                in_layout=False,  # lies inside the axes, and there are many
            )
    names = report.classes or [str(i) for i in range(classes)]
    if classes <= MOST_NAMED:
        rotation = 0 if max(map(len, names)) <= 2 else 90
        ax.set_xticks(range(classes), names, rotation=rotation)
        ax.set_yticks(range(classes), names)
    ax.tick_params(labelsize=9 if classes <= MOST_NUMBERED else 7)
    ax.set_xlabel("predicted")
    ax.set_ylabel("label")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(True)

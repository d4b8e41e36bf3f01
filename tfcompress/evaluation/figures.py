"""The compared figures: what each is called, which way is better, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One compared figure.

    Attributes:
        key: Name in `EntryResult.figures`, data frames and JSON.
        label: Column heading.
        group: Table that it is shown in: `"Quality"`, `"Size"` or `"Latency"`.
        better: 1 if more is better, -1 if less is, 0 if neither.
        form: How the value is written: `"percent"`, `"number"`, `"count"`, `"short"` (a rounded
            count), `"bytes"`, `"times"` or `"milliseconds"`.
        meaning: One sentence on what it is.
        delta: How the difference is written: `"points"`, `"relative"`, `"number"` or `""` for not
            at all.
        brief: Whether it belongs in the terminal table, which has 80 columns.
    """

    key: str
    label: str
    group: str
    better: int
    form: str
    meaning: str
    delta: str = ""
    brief: bool = True


FIGURES = (
    Figure(
        "accuracy", "accuracy", "Quality", 1, "percent", "Share of right predictions.", "points"
    ),
    Figure(
        "precision",
        "precision",
        "Quality",
        1,
        "percent",
        "Mean over classes of the share of predictions of a class that are right.",
        "points",
    ),
    Figure(
        "recall",
        "recall",
        "Quality",
        1,
        "percent",
        "Mean over classes of the share of samples of a class that are found.",
        "points",
    ),
    Figure(
        "f1",
        "F1",
        "Quality",
        1,
        "percent",
        "Mean over classes of the harmonic mean of precision and recall.",
        "points",
    ),
    Figure("mae", "MAE", "Quality", -1, "number", "Mean absolute error.", "number"),
    Figure("mse", "MSE", "Quality", -1, "number", "Mean squared error.", "number"),
    Figure(
        "agreement",
        "agreement",
        "Quality",
        1,
        "percent",
        "Share of samples for which the entry predicts the class that the baseline predicts.",
    ),
    Figure(
        "calibration_error",
        "calibration",
        "Quality",
        -1,
        "percent",
        "Expected calibration error: mean distance of confidence from accuracy.",
        "points",
        brief=False,
    ),
    Figure("parameters", "parameters", "Size", -1, "count", "Elements of all weights.", "relative"),
    Figure("nonzeros", "non-zero", "Size", -1, "count", "Weights that are not zero.", "relative"),
    Figure(
        "sparsity",
        "zeros",
        "Size",
        0,
        "percent",
        "Share of the weights that are zero.",
        "points",
        brief=False,
    ),
    Figure(
        "macs",
        "MACs",
        "Size",
        -1,
        "short",
        "Multiply-accumulate operations of one sample.",
        "relative",
    ),
    Figure("bytes", "file", "Size", -1, "bytes", "Size of the file.", "relative"),
    Figure(
        "gzip_bytes", "gzip", "Size", -1, "bytes", "Size of the file after gzip -9.", "relative"
    ),
    Figure(
        "ratio",
        "smaller",
        "Size",
        1,
        "times",
        "How many times smaller the file is than the first file.",
    ),
    Figure(
        "gzip_ratio",
        "smaller (gzip)",
        "Size",
        1,
        "times",
        "The same for the files after gzip -9.",
        brief=False,
    ),
    Figure(
        "float_ops",
        "float ops",
        "Size",
        -1,
        "count",
        "Operators of the file that compute in float.",
    ),
    Figure(
        "latency_ms",
        "median",
        "Latency",
        -1,
        "milliseconds",
        "Median time of one invocation at batch 1.",
        "relative",
    ),
    Figure(
        "latency_p95_ms",
        "p95",
        "Latency",
        -1,
        "milliseconds",
        "Time that 95 % of the invocations stay below.",
        "relative",
    ),
)
GROUPS = ("Quality", "Size", "Latency")
MISSING = "-"


def figure(key: str) -> Figure:
    """Return the figure of that name.

    Raises:
        KeyError: If there is none.
    """
    return next(item for item in FIGURES if item.key == key)


def write_value(item: Figure, value: float | None) -> str:
    """Return a value as people read it."""
    if value is None:
        return MISSING
    if item.form == "percent":
        return f"{100 * value:.2f}"
    if item.form == "count":
        return f"{round(value):,}"
    if item.form == "bytes":
        return write_bytes(value)
    if item.form == "short":
        return write_count(value)
    if item.form == "times":
        return f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"
    return f"{value:#.3g}" if abs(value) < 100 else f"{value:,.0f}"


def write_count(value: float) -> str:
    """Return a number of things, from 10,000 on rounded to three digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= max(size, 1e4):
            return (
                f"{value / size:.3g} {unit}"
                if value < 1e3 * size
                else f"{value / size:,.0f} {unit}"
            )
    return f"{round(value):,}"


def write_bytes(value: float) -> str:
    """Return a number of bytes in the unit that suits it, powers of 1,000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            number = value / size
            return f"{number:.1f} {unit}" if number < 100 else f"{number:.0f} {unit}"
    return f"{round(value)} B"


def write_delta(item: Figure, value: float | None, baseline: float | None) -> str:
    """Return the difference to the baseline as people read it; empty where it says nothing."""
    if value is None or baseline is None or not item.delta:
        return ""
    difference = value - baseline
    if item.delta == "points":
        points = round(100 * difference, 2)
        return f"{points:+.2f}" if points else "0.00"
    if item.delta == "number":
        return f"{difference:+.2g}" if difference else "0"
    if baseline == 0:
        return ""
    share = 100 * difference / baseline
    if abs(share) < 0.05:
        return "0%"
    return f"{share:+.0f}%" if abs(share) >= 10 else f"{share:+.1f}%"


def verdict(item: Figure, value: float | None, baseline: float | None) -> str:
    """Return `"better"`, `"worse"` or `"same"`, for colouring."""
    if value is None or baseline is None or value == baseline or not item.better:
        return "same"
    if write_delta(item, value, baseline) in ("0.00", "0%"):
        return "same"  # what reads as no difference has no colour
    return "better" if (value > baseline) == (item.better > 0) else "worse"

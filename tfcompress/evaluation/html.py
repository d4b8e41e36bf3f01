"""The report as a self-contained page, and as a fragment for notebooks."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from tfcompress.evaluation import plots
from tfcompress.evaluation.axes import plain_axes, small_axes
from tfcompress.evaluation.figures import GROUPS, Figure, verdict, write_delta, write_value
from tfcompress.evaluation.matrices import draw_confusion_change
from tfcompress.evaluation.palette import TONES, entry_tone
from tfcompress.evaluation.results import EntryResult, Latency, LayerResult, WeightHistogram
from tfcompress.evaluation.short_names import short_name
from tfcompress.evaluation.svg import svg

if TYPE_CHECKING:
    import jinja2

    from tfcompress.evaluation.report import Report

MOST_CLASS_ROWS = 100
# Rounding to int8 makes a few zeros of its own.
LEAST_SPARSITY = 0.05
TIMES = "\N{MULTIPLICATION SIGN}"
# Titles of plots by kind.
TRADE_OFFS = {
    "size": "Quality against file size",
    "gzip": "Quality against gzip size",
    "speed": "Quality against latency",
}
LATENCIES = {"latency": "Latency at batch 1", "distribution": "Distribution"}


def page(report: Report) -> str:
    """Return one HTML page that needs nothing else: no script, no network.

    Args:
        report: What to show.
    """
    return _template("report_template.html").render(
        report=report,
        colours=TONES,
        groups=_groups(report),
        legend=_legend(report),
        notes=report.notes(),
        trade_offs=_figures(report, TRADE_OFFS),
        latency=_figures(report, LATENCIES),
        calibration=_figures(report, {"calibration": "Confidence and accuracy"}),
        sparsity=_sparsity(report),
        layer_plots=_layer_plots(report),
        histograms=_histograms(report),
        layers=[
            (entry, [_layer_row(layer) for layer in entry.layers])
            for entry in report.entries
            if entry.layers
        ],
        fidelity=[
            (entry, [_fidelity_row(row) for row in entry.layer_fidelity])
            for entry in report.entries
            if entry.layer_fidelity
        ],
        confusions=_confusions(report),
        per_class=_per_class(report),
        disagreements=[entry for entry in report.entries[1:] if entry.disagreement_count],
        weights=[(entry, [_weight_row(w) for w in entry.weights]) for entry in report.entries],
        environment=_flat(_unnested(report.metadata)),
    )


def fragment(report: Report) -> str:
    """Return the tables alone, styled within, for a notebook cell."""
    return _template("fragment_template.html").render(
        report=report, colours=TONES, groups=_groups(report), notes=report.notes()
    )


def _template(name: str) -> jinja2.Template:
    import jinja2

    folder = resources.files("tfcompress.evaluation")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _groups(report: Report) -> list[dict[str, Any]]:
    """Return the summary tables: headings and, per entry, value, delta and verdict."""
    groups = []
    for group in GROUPS:
        figures = report.figures(group)
        if not figures:
            continue
        rows = [
            {
                "name": entry.name,
                "colour": _colour(index),
                "cells": [_cell(report, entry, figure) for figure in figures],
                "runtime": _runtime(entry.latency) if group == "Latency" else None,
            }
            for index, entry in enumerate(report.entries)
        ]
        groups.append({"title": group, "headings": [_heading(f) for f in figures], "rows": rows})
    return groups


def _heading(figure: Figure) -> dict[str, str]:
    unit = {"percent": ", %", "milliseconds": ", ms"}.get(figure.form, "")
    return {"label": f"{figure.label}{unit}", "meaning": figure.meaning}


def _cell(report: Report, entry: EntryResult, figure: Figure) -> dict[str, str]:
    value = entry.figures.get(figure.key)
    base = report.baseline.figures.get(figure.key)
    delta = "" if entry is report.baseline else write_delta(figure, value, base)
    exact = "" if value is None else f"{value:,.6g}"
    if value is not None and figure.form in ("bytes", "count", "short"):
        exact = f"{round(value):,}"
    return {
        "value": write_value(figure, value).replace("x", TIMES),
        "delta": delta.replace("-", "\N{MINUS SIGN}"),
        "verdict": verdict(figure, value, base),
        "exact": exact,
    }


def _runtime(latency: Latency | None) -> str:
    return latency.described if latency is not None else ""


def _colour(index: int) -> str:
    return f"var({entry_tone(index).variable})"


def _legend(report: Report) -> list[dict[str, str]]:
    return [
        {"name": entry.name, "colour": _colour(index), "source": entry.source}
        for index, entry in enumerate(report.entries)
    ]


def _figures(report: Report, titles: dict[str, str]) -> list[dict[str, str]]:
    """Return the plots that the report has something for, by kind."""
    return [
        _figure(report, kind, title)
        for kind, title in titles.items()
        if plots.available(report, kind)
    ]


def _sparsity(report: Report) -> list[dict[str, str]]:
    return [
        _figure(report, "sparsity", entry.name, entry.name)
        for entry in report.entries
        if plots.available(report, "sparsity", entry.name)
        and any(weight.sparsity > LEAST_SPARSITY for weight in plots.kernels(entry))
    ]


def _layer_plots(report: Report) -> list[dict[str, str]]:
    return [
        _figure(report, "layers", entry.name, entry.name)
        for entry in report.entries
        if plots.available(report, "layers", entry.name)
    ]


def _histograms(report: Report) -> list[dict[str, Any]]:
    """Return, by entry after the baseline, a small plot for each of its largest weights."""
    groups = []
    for position, entry in enumerate(report.entries[1:], start=1):
        figures = []
        for number, histogram in enumerate(entry.histograms):
            axes = small_axes(2.9, 1.9)
            plots.draw(report, "weights", axes, entry.name, weight=histogram.name, legend=False)
            title = short_name(histogram.name)
            drawing = svg(axes, f"weights-{position}-{number}", f"{title}: histogram")
            figures.append({"title": title, "svg": drawing, "facts": _histogram_facts(histogram)})
        if figures:
            groups.append({"entry": entry, "colour": _colour(position), "figures": figures})
    return groups


def _histogram_facts(histogram: WeightHistogram) -> str:
    facts = []
    if histogram.codes is not None:
        facts.append(f"{histogram.codes} codes, median step {histogram.step:.3g}")
    if histogram.zeros:
        facts.append(f"{100 * histogram.zeros:.0f} % zeros, not drawn")
    if histogram.before is None:
        facts.append("no counterpart in the baseline")
    return "; ".join(facts)


def _figure(report: Report, kind: str, title: str, entry: str | None = None) -> dict[str, str]:
    axes = plots.draw(report, kind, entry=entry, legend=False, shown=False)
    position = "" if entry is None else f"-{[e.name for e in report.entries].index(entry)}"
    return {"title": title, "svg": svg(axes, f"{kind}{position}", f"{title}: {kind} plot")}


def _confusions(report: Report) -> list[dict[str, str]]:
    figures = []
    for index, entry in enumerate(report.entries):
        # An entry that predicts what the baseline predicts has the baseline's matrix.
        if entry.confusion is None or (index and not entry.disagreement_count):
            continue
        axes = plots.draw(report, "confusion", entry=entry.name, shown=False)
        description = f"Confusion matrix of {entry.name}"
        figures.append({"title": entry.name, "svg": svg(axes, f"confusion-{index}", description)})
        if index and report.baseline.confusion is not None:
            axes = plain_axes(4.2, 4.0)
            plots.style(axes)
            draw_confusion_change(report, axes, entry)
            title = f"{entry.name}, change to {report.baseline.name}"
            figures.append({"title": title, "svg": svg(axes, f"change-{index}", title)})
    return figures


def _per_class(report: Report) -> list[dict[str, Any]]:
    """Return a row a class: support and, per entry, precision, recall, F1 and F1's difference."""
    base = report.baseline.per_class
    if base is None or report.classes is None:
        return []
    rows = []
    for position, name in enumerate(report.classes[:MOST_CLASS_ROWS]):
        cells = []
        for entry in report.entries:
            scores = (entry.per_class or [])[position]
            change = 100 * (scores.f1 - base[position].f1)
            cells.append(
                {
                    "precision": f"{100 * scores.precision:.1f}",
                    "recall": f"{100 * scores.recall:.1f}",
                    "f1": f"{100 * scores.f1:.1f}",
                    "delta": "" if entry is report.baseline else _signed(change),
                    "verdict": _sign_verdict(change),
                }
            )
        rows.append({"name": name, "support": base[position].support, "cells": cells})
    return rows


def _signed(change: float) -> str:
    return f"{change:+.1f}".replace("-", "\N{MINUS SIGN}")


def _sign_verdict(change: float) -> str:
    if abs(change) < 0.05:
        return "same"
    return "better" if change > 0 else "worse"


def _weight_row(weight: Any) -> dict[str, Any]:
    return {
        "name": short_name(weight.name),
        "full": weight.name,
        "shape": f" {TIMES} ".join(map(str, weight.shape)) or "scalar",
        "dtype": weight.dtype,
        "size": f"{weight.size:,}",
        "bytes": f"{weight.bytes:,}",
        "bits": f"{weight.bits:.0f}",
        "scales": str(weight.scales) if weight.scales else "",
        "sparsity": f"{100 * weight.sparsity:.1f}",
        "share": round(100 * weight.sparsity, 1),
        "operator": weight.operator,
    }


def _layer_row(layer: LayerResult) -> dict[str, Any]:
    return {
        "name": short_name(layer.name),
        "full": layer.name,
        "operator": layer.operator,
        "parameters": f"{layer.parameters:,}",
        "sparsity": f"{100 * layer.sparsity:.1f}",
        "share": round(100 * layer.sparsity, 1),
        "bits": f"{layer.bits:.0f}" if layer.parameters else "",
        "bytes": f"{layer.bytes:,}",
        "macs": "" if layer.macs is None else f"{layer.macs:,}",
        "sqnr": "" if layer.sqnr is None else f"{layer.sqnr:.1f}",
    }


def _fidelity_row(row: dict[str, Any]) -> dict[str, str]:
    """Return one row of a `FidelityReport` as texts."""
    quantized = row["max_quanta"] is not None
    return {
        "name": row["name"],
        "operator": row["operator"] or "",
        "largest": f"{row['max_quanta']:.3g}" if quantized else "",
        "mean": f"{row['mean_quanta']:.3f}" if quantized else "",
        "off": f"{100 * row['off_fraction']:.1f}" if quantized else "",
        "sqnr": "" if row["sqnr"] is None else f"{row['sqnr']:.1f}",
        "skipped": row["skipped"],
    }


def _unnested(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the environment's facts before the caller's."""
    others = {key: value for key, value in metadata.items() if key != "environment"}
    return {**metadata.get("environment", {}), **others}


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested metadata as pairs of a dotted name and a text."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            rows.append((name, " ".join(map(str, value))))
        else:
            rows.append((name, str(value)))
    return rows

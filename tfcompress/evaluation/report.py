"""The result of a comparison."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfcompress.evaluation.figures import FIGURES, Figure
from tfcompress.evaluation.results import EntryResult
from tfcompress.files import atomic_write_text

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

VERSION = 1
# What a plot has beside quality.
FRONTS = ("bytes", "gzip_bytes", "latency_ms")


@dataclass(repr=False)
class Report:
    """What `tfcompress.compare` found: prints as a table, shows itself in a notebook.

    Attributes:
        task: `"classification"` or `"regression"`.
        data: What the entries were compared on.
        samples: Number of samples.
        classes: Class names, or `None` for regression.
        entries: One result an entry, the baseline first.
        examples: Small pictures of samples that the entries disagree on: data URIs by index.
        settings: `threads` and `batch_size`.
        metadata: The environment and whatever the caller added.

    Example:

    ```python
    report = tfc.compare({"float": "float.keras", "int8": artifact}, test)
    report["int8"].figures["accuracy"]
    report.to_frame()[["accuracy", "accuracy_delta", "bytes"]]
    report.plot("latency")
    report.to_html("report.html")
    Report.from_json(report.to_json("report.json"))
    ```
    """

    task: str
    data: str
    samples: int
    classes: list[str] | None
    entries: list[EntryResult]
    examples: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> EntryResult:
        """The entry that the others are compared with."""
        return self.entries[0]

    def __getitem__(self, name: str) -> EntryResult:
        """Return the result of the entry of that name."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(repr(entry.name) for entry in self.entries)
        raise KeyError(f"The report has no entry {name!r}. Its entries: {known}")

    def figures(self, group: str | None = None) -> list[Figure]:
        """Return the figures that at least one entry has.

        Args:
            group: `"Quality"`, `"Size"` or `"Latency"`, or `None`, the default, for all.
        """
        return [
            figure
            for figure in FIGURES
            if group in (None, figure.group)
            and any(entry.figures.get(figure.key) is not None for entry in self.entries)
        ]

    def deltas(self, name: str) -> dict[str, float | None]:
        """Return the differences of an entry's figures to the baseline's.

        Args:
            name: Name of the entry.

        Returns:
            Value minus the baseline's value by figure; `None` where either has none.
        """
        entry = self[name]
        differences: dict[str, float | None] = {}
        for figure in self.figures():
            value = entry.figures.get(figure.key)
            base = self.baseline.figures.get(figure.key)
            differences[figure.key] = None if value is None or base is None else value - base
        return differences

    def notes(self) -> list[str]:
        """Return what a reader has to know to take the figures for what they are."""
        notes = []
        timed = [entry.latency for entry in self.entries if entry.latency is not None]
        runtimes = {latency.runtime for latency in timed}
        if len(runtimes) > 1:
            notes.append(
                "Latencies of different runtimes do not compare: Keras adds its own overhead and "
                "uses its backend's threads. For the speed-up, compare with a float32 .tflite."
            )
        sources = {entry.kind for entry in self.entries if entry.figures.get("bytes") is not None}
        if sources == {"keras", "tflite"}:
            notes.append(
                "Keras files may hold the optimizer's state as well; Keras models count batch "
                "normalization, which .tflite files have folded away."
            )
        return notes

    def to_frame(self) -> pandas.DataFrame:
        """Return a row an entry; a column a figure, then a column a delta (`<figure>_delta`)."""
        import pandas

        rows = {}
        for entry in self.entries:
            values = {figure.key: entry.figures.get(figure.key) for figure in self.figures()}
            deltas = {f"{key}_delta": value for key, value in self.deltas(entry.name).items()}
            rows[entry.name] = {**values, **deltas}
        frame = pandas.DataFrame.from_dict(rows, orient="index").astype("float64")
        frame.index.name = "entry"
        return frame

    def layers(self) -> pandas.DataFrame:
        """Return a row a layer of every entry: parameters, zeros, bits, bytes, MACs and SQNR."""
        import pandas

        rows = [
            {"entry": entry.name, **asdict(layer), "sparsity": layer.sparsity}
            for entry in self.entries
            for layer in entry.layers
        ]
        return pandas.DataFrame(rows)

    def plot(
        self,
        kind: str = "size",
        ax: matplotlib.axes.Axes | None = None,
        entry: str | None = None,
        weight: str | None = None,
    ) -> matplotlib.axes.Axes:
        """Draw a plot with matplotlib.

        Args:
            kind: `"size"` (quality against file size), `"gzip"` (against gzip size), `"speed"`
                (against latency), `"latency"` (bars), `"distribution"` (of the latencies),
                `"calibration"` (accuracy against confidence), and of one entry: `"layers"` (bytes
                and multiplications), `"sparsity"` (of each weight), `"weights"` (values of one
                weight on its quantization grid) or `"confusion"`.
            ax: Axes to draw into. Defaults to a new figure.
            entry: Name of the entry, for the kinds that show one. Defaults to the last.
            weight: Name of the weight for `"weights"`. Defaults to the largest.

        Returns:
            The axes; `.figure` is the figure.

        Raises:
            ValueError: If the kind is unknown or the report has nothing of it.
        """
        from tfcompress.evaluation import plots

        return plots.draw(self, kind, ax, entry, weight=weight)

    def front(self, key: str = "bytes") -> list[str]:
        """Return the entries that no other one beats in both quality and another figure.

        Args:
            key: The other figure, of which less is better: `"bytes"`, the default, `"gzip_bytes"`
                or `"latency_ms"`.

        Returns:
            Their names, by that figure in ascending order.
        """
        quality, sign = ("accuracy", 1) if self.task == "classification" else ("mae", -1)
        points = [
            (entry.figures.get(key), entry.figures.get(quality), entry.name)
            for entry in self.entries
        ]
        known = [(x, sign * y, name) for x, y, name in points if x is not None and y is not None]
        names: list[str] = []
        best = -math.inf
        for _, y, name in sorted(known, key=lambda point: (point[0], -point[1])):
            if y > best:
                names.append(name)
                best = y
        return names

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values, what follows from other values too."""
        document = {"version": VERSION, **asdict(self)}
        document["notes"] = self.notes()
        document["fronts"] = {key: self.front(key) for key in FRONTS}
        document["entries"] = [
            {
                **entry.to_dict(),
                "deltas": self.deltas(entry.name),
                "f1_deltas": self._f1_deltas(entry),
                "confusion_deltas": self._confusion_deltas(entry),
            }
            for entry in self.entries
        ]
        return document

    def _f1_deltas(self, entry: EntryResult) -> list[float] | None:
        if entry.per_class is None or self.baseline.per_class is None:
            return None
        pairs = zip(entry.per_class, self.baseline.per_class, strict=True)
        return [scores.f1 - base.f1 for scores, base in pairs]

    def _confusion_deltas(self, entry: EntryResult) -> list[list[int]] | None:
        if entry.confusion is None or self.baseline.confusion is None:
            return None
        rows = zip(entry.confusion, self.baseline.confusion, strict=True)
        return [[own - base for own, base in zip(*row, strict=True)] for row in rows]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Report:
        """Rebuild what `to_dict` wrote.

        Raises:
            ValueError: If it is not a report, or one of another version.
        """
        if document.get("version") != VERSION or "entries" not in document:
            raise ValueError(
                f"A report of version {VERSION} was expected. "
                f"Received: version={document.get('version')!r} with keys {sorted(document)}"
            )
        values = {item.name: document[item.name] for item in fields(cls) if item.name in document}
        values["entries"] = [EntryResult.from_dict(entry) for entry in document["entries"]]
        return cls(**values)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a JSON file, and return its path.

        Raises:
            PermissionError: If the folder cannot be written to.
        """
        return atomic_write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `to_json` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a report.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(document, dict):
            raise ValueError(f"{path} is not a report, but a {type(document).__name__}.")
        return cls.from_dict(document)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML page with tables and plots, and return its path.

        Raises:
            PermissionError: If the folder cannot be written to.
        """
        from tfcompress.evaluation.html import page

        return atomic_write_text(path, page(self))

    def _repr_html_(self) -> str:
        from tfcompress.evaluation.html import fragment

        return fragment(self)

    def __str__(self) -> str:
        from tfcompress.evaluation.table import render

        return render(self)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

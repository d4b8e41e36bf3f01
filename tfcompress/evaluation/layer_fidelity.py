"""Where a TFLite file and the Keras model it was made from part, layer by layer."""

from __future__ import annotations

import html
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.evaluation.tensor_matching import Point, match
from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.file_parts import Activation
from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
from tfcompress.export.worker import ConversionError, Worker, default_worker

if TYPE_CHECKING:
    import keras
    import pandas
    from matplotlib.axes import Axes

    from tfcompress.evaluation.file_values import FileValues
    from tfcompress.evaluation.keras_values import KerasValues

_CHUNK = 8
_WIDTHS = (30, 18, 6, 6, 7, 6)


@dataclass(frozen=True)
class TensorFidelity:
    """How far one tensor of the file is from the model's.

    Attributes:
        name: The layer whose output it is, as in the plan.
        kind: Class of the layer.
        operator: LiteRT's operator that computes it, or None when it is not in the file.
        step: Its scale: one quantum. None for a float tensor.
        max_quanta: Largest difference in quanta; None for a float tensor.
        mean_quanta: Mean difference in quanta; None for a float tensor.
        off_fraction: Share of the values that are off by more than half a quantum.
        sqnr: Signal-to-quantization-noise ratio in dB; None without noise.
        skipped: Why nothing was compared; empty when it was.
    """

    name: str
    kind: str
    operator: str | None = None
    step: float | None = None
    max_quanta: float | None = None
    mean_quanta: float | None = None
    off_fraction: float | None = None
    sqnr: float | None = None
    skipped: str = ""


@dataclass(frozen=True, repr=False)
class FidelityReport:
    """The tensors of a model in the order in which they are computed, and how far each is off.

    Differences add up along the network: what the first row beyond the tolerance shows is where
    they come from.

    Attributes:
        rows: One for each tensor.
        tolerance: Largest difference in quanta that is taken as rounding.
        samples: Number of samples that were compared.
        fallback: Why the file's values are those of LiteRT's own kernels, which round twice and so
            are off by a quantum here and there, instead of XNNPACK's; empty when they are not.
    """

    rows: tuple[TensorFidelity, ...]
    tolerance: float
    samples: int
    fallback: str = ""

    @property
    def first_beyond(self) -> TensorFidelity | None:
        """The first tensor that is further off than the tolerance, or None."""
        for row in self.rows:
            # References are float32: a difference of exactly 4 quanta may read 4.00001.
            if row.max_quanta is not None and row.max_quanta > self.tolerance + 1e-2:
                return row
        return None

    @property
    def worst(self) -> TensorFidelity | None:
        """The quantized tensor with the largest difference, or None when there is none."""
        quantized = [row for row in self.rows if row.max_quanta is not None]
        return max(quantized, key=lambda row: row.max_quanta or 0.0, default=None)

    def verdict(self) -> str:
        """One sentence: which layer parts first."""
        first = self.first_beyond
        if first is not None:
            return (
                f"The first layer beyond {self.tolerance:g} quanta is '{first.name}' "
                f"({first.kind}, in the file {first.operator}): at most {first.max_quanta:.3g} "
                f"quanta, {first.off_fraction:.1%} of its values off."
            )
        compared = [row for row in self.rows if not row.skipped]
        if not compared:
            return "No layer of the model could be found in the file."
        return f"All {len(compared)} layers found in the file are within {self.tolerance:g} quanta."

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def to_frame(self) -> pandas.DataFrame:
        """One row a tensor (needs pandas)."""
        import pandas

        columns = list(TensorFidelity.__dataclass_fields__)
        return pandas.DataFrame([asdict(row) for row in self.rows], columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the largest difference of every compared tensor (needs matplotlib).

        Args:
            ax: Axes to draw into. Defaults to None: new ones.

        Returns:
            The axes.
        """
        from tfcompress.evaluation.axes import new_axes, style

        rows = [row for row in self.rows if row.max_quanta is not None]
        ax = new_axes(7.0, 1.2 + 0.22 * len(rows)) if ax is None else ax
        position = range(len(rows))
        beyond = [row.max_quanta is not None and row.max_quanta > self.tolerance for row in rows]
        colours = ["#d1495b" if far else "#2a78d6" for far in beyond]
        ax.barh(position, [row.max_quanta or 0.0 for row in rows], color=colours, height=0.65)
        ax.axvline(self.tolerance, color="#888888", linewidth=1, linestyle="--")
        ax.set_yticks(position, [_clip(row.name, 40) for row in rows])
        ax.invert_yaxis()
        ax.set_xlabel("largest difference, quanta")
        style(ax)
        return ax

    def _cells(self) -> list[tuple[str, ...]]:
        table: list[tuple[str, ...]] = [("layer", "operator", "max", "mean", "off", "SQNR")]
        for row in self.rows:
            if row.skipped:
                continue
            quanta = row.max_quanta is not None
            table.append(
                (
                    row.name,
                    row.operator or "input",
                    f"{row.max_quanta:.3g}" if quanta else "float",
                    f"{row.mean_quanta:.2f}" if quanta else "",
                    f"{row.off_fraction:.1%}" if quanta else "",
                    "exact" if row.sqnr is None else f"{row.sqnr:.0f} dB",
                )
            )
        return table

    def __str__(self) -> str:
        heading, *rows = self._cells()
        lines = [_line(heading), "-" * (sum(_WIDTHS) + len(_WIDTHS) - 1), *map(_line, rows)]
        missing = [row for row in self.rows if row.skipped]
        texts = [f"not compared: {row.name}: {row.skipped}" for row in missing]
        if self.fallback:
            texts.append(
                "Read with LiteRT's own kernels, which differ from XNNPACK's by a quantum here and "
                f"there, because XNNPACK does not run the file with all values kept: "
                f"{self.fallback}"
            )
        for text in (*texts, self.verdict()):
            lines += textwrap.wrap(text, 80, subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join(lines)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        heading, *rows = self._cells()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self.verdict())}</p>"
        )


def fidelity(
    model: keras.Model | str | PathLike[str],
    artifact: Any,
    data: Any,
    tolerance: float = 4.0,
    limit: int = 64,
    worker: Worker | None = None,
) -> FidelityReport:
    """Compare every quantized tensor of a model with its counterpart in a TFLite file.

    For a quantization-aware model these are the outputs of its quantizers, which the file must
    repeat up to rounding; they are found in the file by their scale. For a float model and a file
    from post-training quantization they are the outputs of the layers, found by name, and the
    differences are those of quantization itself.

    The file runs in a child process with LiteRT's default kernels (XNNPACK), as it does once
    deployed; the values in its middle are made further outputs of a copy. Where that copy does not
    run, LiteRT's own kernels take its place, and the report says so.

    Args:
        model: The Keras model that the file was made from; one that was trained with
            `tfcompress.callbacks.QuantizationAwareTraining` stands for its quantized form. Or the
            path of a float `.tflite` file of the same model, whose tensors are found by name.
        artifact: The `Artifact`, or the path of the `.tflite` file.
        data: Samples, in any form that `quantize_aware` takes as `calibration`.
        tolerance: Largest difference in quanta that is taken as rounding. Defaults to 4.
        limit: Most samples to compare. Defaults to 64.
        worker: The child process; by default the one that everybody shares.

    Returns:
        A `FidelityReport`: prints as a table, becomes a DataFrame or a plot.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or the data do not fit the model.
        ConversionError: If the file cannot be run.

    Example:

    ```python
    report = tfcompress.fidelity(qat, artifact, x_test)
    print(report)
    report.first_beyond
    ```
    """
    path, content = read_tflite(getattr(artifact, "path", artifact))
    if path is None:
        raise TypeError("`artifact` must be an `Artifact` or a path. Received: bytes")
    worker = worker or default_worker()
    values = _values_of(model, worker)
    samples = calibration_samples(data, values.specs, limit)
    activations = Flatbuffer(content, path).activations()
    runner = _Runner(path, worker)
    found: dict[int, Activation] = {}
    sums: dict[int, _Sums] = {}
    for first, chunk in _chunks(samples):
        expected = values.run(chunk)
        if first:
            everything = runner.read(chunk, activations)
            found = match(values.points, expected, activations, everything)
        seen = runner.read(chunk, list(found.values()))
        for number, activation in found.items():
            total = sums.setdefault(number, _Sums(activation.spec.scale))
            total.add(expected[number], activation.spec.dequantize(seen[activation.index]))
    rows = [
        _row(point, found.get(number), sums.get(number))
        for number, point in enumerate(values.points)
    ]
    count = len(next(iter(samples.values())))
    return FidelityReport(tuple(rows), tolerance, count, runner.fallback)


def _values_of(model: Any, worker: Worker) -> KerasValues | FileValues:
    if isinstance(model, str | PathLike):
        from tfcompress.evaluation.file_values import FileValues

        return FileValues(str(model), _Runner(str(model), worker).read)
    from tfcompress.evaluation.keras_values import KerasValues
    from tfcompress.quantization.twin import quantized_form

    return KerasValues(quantized_form(model))


class _Sums:
    """Differences of one tensor, added up over chunks of samples."""

    def __init__(self, step: float | None) -> None:
        self.step = step
        self.largest = 0.0
        self.total = 0.0
        self.off = 0
        self.count = 0
        self.noise = 0.0
        self.signal = 0.0

    def add(self, expected: np.ndarray, seen: np.ndarray) -> None:
        expected = expected.reshape(-1).astype(np.float64)
        difference = np.abs(expected - seen.reshape(-1))
        self.noise += float(np.square(difference).sum())
        self.signal += float(np.square(expected).sum())
        quanta = difference / (self.step or 1.0)
        self.largest = max(self.largest, float(quanta.max(initial=0.0)))
        self.total += float(quanta.sum())
        self.off += int((quanta > 0.5).sum())
        self.count += quanta.size

    @property
    def sqnr(self) -> float | None:
        if not self.noise or not self.signal:
            return None
        return float(10 * np.log10(self.signal / self.noise))


class _Runner:
    """Reads tensors of one file in the child process.

    Attributes:
        fallback: Why XNNPACK cannot be used; empty while it is.
    """

    def __init__(self, path: str, worker: Worker) -> None:
        self.path = str(Path(path).resolve())
        self.worker = worker
        self.fallback = ""

    def read(
        self, samples: Mapping[str, np.ndarray], activations: Sequence[Activation]
    ) -> dict[int, np.ndarray]:
        if not self.fallback:
            try:
                return self._read(samples, activations, "auto")
            except ConversionError as error:
                self.fallback = str(error)
                logging.warning("fidelity: XNNPACK does not run the changed file: %s", error)
        return self._read(samples, activations, "builtin")

    def _read(
        self, samples: Mapping[str, np.ndarray], activations: Sequence[Activation], resolver: str
    ) -> dict[int, np.ndarray]:
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
            given, taken = Path(folder) / "samples.npz", Path(folder) / "tensors.npz"
            save_arrays(given, samples)
            self.worker.call(
                "tfcompress.export.jobs:read_tensors",
                path=self.path,
                samples=str(given),
                output=str(taken),
                indices=[activation.index for activation in activations],
                resolver=resolver,
            )
            return {int(name): array for name, array in load_arrays(taken).items()}


def _chunks(samples: dict[str, np.ndarray]) -> Iterator[tuple[bool, dict[str, np.ndarray]]]:
    count = len(next(iter(samples.values())))
    for start in range(0, count, _CHUNK):
        yield start == 0, {n: values[start : start + _CHUNK] for n, values in samples.items()}


def _row(point: Point, activation: Activation | None, sums: _Sums | None) -> TensorFidelity:
    if activation is None or sums is None:
        return TensorFidelity(point.name, point.kind, skipped=point.absence)
    quantized = activation.spec.quantized
    return TensorFidelity(
        name=point.name,
        kind=point.kind,
        operator=activation.operator or None,
        step=activation.spec.scale,
        max_quanta=sums.largest if quantized else None,
        mean_quanta=sums.total / sums.count if quantized else None,
        off_fraction=sums.off / sums.count if quantized else None,
        sqnr=sums.sqnr,
    )


def _line(cells: tuple[str, ...]) -> str:
    left = [_clip(cell, width).ljust(width) for cell, width in zip(cells[:2], _WIDTHS[:2])]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], _WIDTHS[2:])]
    return " ".join([*left, *right]).rstrip()


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-(width - 1) :]

"""What was measured of one entry, as plain data that survives JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Latency:
    """Times of single invocations at batch 1.

    Attributes:
        samples: Milliseconds of every timed invocation, in the order of measurement.
        threads: Threads of the runtime; `None` where the backend decides.
        runtime: What ran the model, for example `"LiteRT"`.
    """

    samples: tuple[float, ...]
    threads: int | None
    runtime: str

    @property
    def described(self) -> str:
        """The runtime and its threads, for people."""
        if self.threads is None:
            return self.runtime
        return f"{self.runtime}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        precision, recall, f1: In 0 … 1; 0 where undefined.
        support: Number of samples with this label.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class LayerWeight:
    """One weight tensor.

    Attributes:
        name: Where it belongs.
        shape: Shape as stored.
        dtype: Stored type.
        size: Number of elements.
        nonzeros: How many are not zero.
        bytes: Stored bytes.
        scales: Quantization scales: 0 for none, 1 per tensor, more per channel.
        operator: What computes with it: a LiteRT operator or a Keras layer class.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    nonzeros: int
    bytes: int
    scales: int
    operator: str

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.nonzeros / self.size if self.size else 0.0

    @property
    def bits(self) -> float:
        """Stored bits per element."""
        return 8 * self.bytes / self.size if self.size else 0.0


@dataclass(frozen=True)
class LayerResult:
    """What one layer of an entry holds and computes.

    Attributes:
        name: The layer of a Keras model; of a file, the weight that its operator reads.
        operator: LiteRT's operator, or the class of the Keras layer.
        parameters: Number of weights and biases.
        nonzeros: How many of them are not zero.
        bits: Stored bits of an element of its largest weight.
        bytes: Stored bytes of all its weights.
        macs: Multiply-accumulate operations for one sample; `None` where they are not known.
        sqnr: Distance of its largest weight from the baseline's in dB, training included: energy of
            the baseline's weight over that of the difference. `None` without difference or without
            counterpart.
    """

    name: str
    operator: str
    parameters: int
    nonzeros: int
    bits: float
    bytes: int
    macs: int | None = None
    sqnr: float | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class WeightHistogram:
    """How the values of one weight lie, and those of its counterpart in the baseline.

    Attributes:
        name: The weight.
        quantized: Whether values are in steps of their channel's scale; otherwise as they are.
        low: Left edge of the first bin.
        width: Width of a bin.
        after: Values in each bin, zeros left out.
        before: The same of the baseline's weight, zeros left out; `None` without counterpart.
        zeros: Share of zeros.
        codes: How many values the grid has; `None` without a grid.
        step: The median scale; `None` without a grid.
    """

    name: str
    quantized: bool
    low: float
    width: float
    after: tuple[int, ...]
    before: tuple[int, ...] | None
    zeros: float
    codes: int | None = None
    step: float | None = None


@dataclass(frozen=True)
class CalibrationBin:
    """Samples of about the same confidence.

    Attributes:
        samples: How many.
        confidence: Their mean confidence.
        accuracy: Share of them that are predicted right.
    """

    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Disagreement:
    """A test sample on which an entry and the baseline predict different classes.

    Attributes:
        index: Position in the data.
        label: True class id.
        baseline: Class id that the baseline predicts.
        predicted: Class id that this entry predicts.
        margin: This entry's output for its choice minus its output for the baseline's choice:
            small for near-ties.
    """

    index: int
    label: int
    baseline: int
    predicted: int
    margin: float


@dataclass
class EntryResult:
    """Everything measured of one entry.

    Attributes:
        name: Its name in the comparison.
        kind: `"keras"` or `"tflite"`.
        source: File name, or what kind of object it was.
        figures: Value by figure name; `None` where it does not apply. See
            `tfcompress.evaluation.figures.FIGURES`.
        latency: Single invocations, or `None` if they were not timed.
        weights: All weight tensors.
        per_class: Scores of every class, or `None` for regression.
        confusion: Counts, a row a label and a column a prediction, or `None`.
        disagreements: Some samples on which it differs from the baseline, clearest first.
        disagreement_count: How many there are in all.
        float_islands: Operators of a .tflite file that compute in float.
        fidelity: How faithful the file is to its Keras model, if the exporter measured it.
        layers: The layers that hold weights or multiply, in the order in which they run.
        histograms: Values of the largest weights.
        calibration: Confidence and accuracy, bin by bin; `None` without probabilities.
        layer_fidelity: Rows of a `FidelityReport`, if the caller gave one.
    """

    name: str
    kind: str
    source: str
    figures: dict[str, float | None]
    latency: Latency | None = None
    weights: list[LayerWeight] = field(default_factory=list)
    per_class: list[ClassScores] | None = None
    confusion: list[list[int]] | None = None
    disagreements: list[Disagreement] = field(default_factory=list)
    disagreement_count: int = 0
    float_islands: list[str] = field(default_factory=list)
    fidelity: dict[str, Any] | None = None
    layers: list[LayerResult] = field(default_factory=list)
    histograms: list[WeightHistogram] = field(default_factory=list)
    calibration: list[CalibrationBin] | None = None
    layer_fidelity: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict with what follows from it too; `from_dict` is its inverse."""
        document = asdict(self)
        for weight, row in zip(self.weights, document["weights"]):
            row |= {"sparsity": weight.sparsity, "bits": weight.bits}
        for layer, row in zip(self.layers, document["layers"]):
            row["sparsity"] = layer.sparsity
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> EntryResult:
        """Rebuild what `to_dict` wrote; other keys are left out."""
        values = _known(cls, document)
        if values["latency"] is not None:
            latency = values["latency"]
            values["latency"] = Latency(**{**latency, "samples": tuple(latency["samples"])})
        values["weights"] = [
            LayerWeight(**{**_known(LayerWeight, row), "shape": tuple(row["shape"])})
            for row in values["weights"]
        ]
        if values["per_class"] is not None:
            values["per_class"] = _rows(ClassScores, values["per_class"])
        values["disagreements"] = _rows(Disagreement, values["disagreements"])
        values["layers"] = _rows(LayerResult, values.get("layers", []))
        values["histograms"] = [
            WeightHistogram(
                **{
                    **row,
                    "after": tuple(row["after"]),
                    "before": None if row["before"] is None else tuple(row["before"]),
                }
            )
            for row in values.get("histograms", [])
        ]
        if values.get("calibration") is not None:
            values["calibration"] = _rows(CalibrationBin, values["calibration"])
        return cls(**values)


def _known(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataclass was made of, without what follows from it."""
    return {item.name: row[item.name] for item in fields(kind) if item.name in row}


def _rows(kind: type[_Row], rows: Iterable[Mapping[str, Any]]) -> list[_Row]:
    return [kind(**_known(kind, row)) for row in rows]

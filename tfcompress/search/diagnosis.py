"""`diagnose`: where a quantized file loses, why, and one remedy that was tried."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.evaluation.layer_fidelity import FidelityReport, fidelity
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.evaluation.output_distance import OutputDistance, output_distance
from tfcompress.export.artifact import Artifact
from tfcompress.export.conversion import SCHEMES
from tfcompress.export.converter import convert
from tfcompress.export.post_training import keras_source
from tfcompress.export.sources import predict
from tfcompress.graph import Graph, Node, flatten
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.progress import progress_bar
from tfcompress.quantization import schemes
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.plan import left_in_float
from tfcompress.quantization.post_training import (
    EFFORTS,
    AdaRound,
    Algorithm,
    PostTraining,
    get_algorithm,
    quantize_post_training,
)
from tfcompress.quantization.quantized_layer import QuantizedLayer
from tfcompress.quantization.schemes import Scheme, SchemeLike, SchemeMap

_WORST = 5
_FULL = 8


@dataclass(frozen=True)
class FileScore:
    """How far a file is from the float model.

    Attributes:
        bytes: Size of the file.
        distance: How far its outputs are from the model's.
    """

    bytes: int
    distance: OutputDistance

    def __str__(self) -> str:
        return f"{self.distance}, {self.bytes:,} bytes"


@dataclass(frozen=True)
class Remedy:
    """A change for one layer that was tried.

    Attributes:
        layer: The layer.
        change: What was done to it: `"float"`, or `"int8"` where it had fewer bits.
        scheme: The schemes by layer that do it, as `convert` takes them.
        score: What the file made with it is like.
    """

    layer: str
    change: str
    scheme: dict[str, Any]
    score: FileScore


@dataclass(frozen=True)
class Diagnosis:
    """Where a quantized file loses, why, and what would help.

    Attributes:
        layers: How far every layer of the file is from the float model; every operator, where the
            source is no Keras model.
        gains: By layer, the SQNR of the outputs in dB if that layer alone were left at more bits,
            most helpful first; simulated. Empty where the source is no Keras model.
        floats: Operations that run in float, with reasons.
        score: What the file is like.
        remedy: What was tried for the most helpful layer, as a file of its own; None where no layer
            helps.
        samples: Number of samples.
    """

    layers: FidelityReport
    gains: dict[str, float]
    floats: tuple[Mapping[str, Any], ...]
    score: FileScore
    remedy: Remedy | None
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; schemes by layer as text."""
        data = asdict(self)
        data["layers"] = self.layers.to_dict()
        if data["remedy"] is not None:
            data["remedy"]["scheme"] = {str(k): str(v) for k, v in data["remedy"]["scheme"].items()}
        return data

    def __str__(self) -> str:
        lines = [str(self.layers), "", f"This file on {self.samples} samples: {self.score}"]
        for row in self.floats:
            lines.append(f"in float: {row['operation']} ({row['type']}): {row['reason']}")
        if self.gains:
            shown = list(self.gains.items())[:_WORST]
            lines.append("What costs most (SQNR if this layer alone had more bits, simulated):")
            lines += [f"  {name:<30} {value:6.1f} dB" for name, value in shown]
        if self.remedy is None and not self.gains:
            lines.append("Only the layers of a Keras model can be tried with more bits.")
        elif self.remedy is None:
            lines.append("No single layer is worth more bits.")
        else:
            lines.append(f"Tried: '{self.remedy.layer}' in {self.remedy.change}: ")
            lines[-1] += f"{self.remedy.score}."
            if self.remedy.score.distance.sqnr > self.score.distance.sqnr:
                lines[-1] += f" To have it: scheme={_shown(self.remedy.scheme)}"
            else:
                lines[-1] += " That is no better."
        return "\n".join(lines)


def _shown(scheme: Mapping[Any, Any]) -> dict[Any, Any]:
    """Schemes by layer with names in place of what has a name."""
    return {
        key: value.name if isinstance(value, Scheme) and value.name in schemes.SCHEMES else value
        for key, value in scheme.items()
    }


def diagnose(
    model: keras.Model | str | PathLike[str],
    artifact: Artifact,
    data: Any,
    scheme: SchemeLike = "int8",
    *,
    limit: int = 64,
    **settings: Any,
) -> Diagnosis:
    """Find out where a quantized file loses, and try one remedy.

    Every layer of the file is compared with the float model. Then the quantization is simulated
    with one layer at a time at more bits (in float, or in 8 bits where the layer has fewer), and
    the layer that helps most is converted so, and measured as a file. The simulation leaves
    learned rounding out.

    Of a SavedModel or a float `.tflite` file the layers are not known: every operator is compared
    with that of the float file, and nothing is tried.

    Args:
        model: The float model, or what else the file was made of: a `.keras` or `.h5` file, a
            SavedModel folder or a float `.tflite` file.
        artifact: The file that was made of it.
        data: Samples, in any form that `convert` takes as `calibration`.
        scheme: The scheme that the file was made with. Defaults to `"int8"`.
        limit: Most samples to compare. Defaults to 64; all are used for calibration.
        **settings: What else was given to `convert`: `algorithms`, `observer`, `effort`, `io`,
            `signature`, `safe_mode`.

    Returns:
        The `Diagnosis`, which prints as a table and the remedy.

    Raises:
        ValueError: If the scheme has no integers, or the data do not fit.
        ConversionError: If the remedy cannot be converted.

    Example:

    ```python
    artifact = tfcompress.convert(model, "model.tflite", "int8", x)
    print(tfcompress.search.diagnose(model, artifact, x))
    ```
    """
    if isinstance(scheme, str) and scheme in SCHEMES and scheme not in schemes.SCHEMES:
        raise ValueError(
            "Only files with integer activations of 8 bits are diagnosed layer by layer. "
            f"Received: scheme={scheme!r}"
        )
    if isinstance(model, str | PathLike):
        if Path(model).suffix not in (".keras", ".h5", ".hdf5"):
            return _diagnose_file(Path(model).expanduser(), artifact, data, limit, settings)
        model = keras_source(model, settings.get("safe_mode", True))
    specs = [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]
    samples = calibration_samples(data, specs, limit)
    inputs = list(samples.values())
    expected = predict(model, inputs)
    done = quantize_post_training(
        model,
        scheme,
        data,
        observer=settings.get("observer"),
        algorithms=_quick_algorithms(settings),
    )
    gains = _gains(done, expected, inputs)
    base = output_distance(expected, predict(done.model, inputs)).sqnr
    remedy = None
    best = next(iter(gains), None)
    if best is not None and gains[best] > base:
        bits = {wrapper.name: wrapper.weight_bits for wrapper in wrappers_of(done.model)}
        change = "int8" if bits[best] < _FULL else "float"
        remedy = _try(model, best, change, scheme, data, samples, expected, settings)
    return Diagnosis(
        layers=fidelity(model, artifact, samples, limit=limit),
        gains=gains,
        floats=tuple(left_in_float(flatten(done.model))),
        score=_scored(artifact, samples, expected),
        remedy=remedy,
        samples=len(inputs[0]),
    )


def _diagnose_file(
    source: Path, artifact: Artifact, data: Any, limit: int, settings: Mapping[str, Any]
) -> Diagnosis:
    """Compare the operators of a file with those of the float file of the same source."""
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        reference = source
        if source.suffix != ".tflite":
            reference = Path(folder) / "float.tflite"
            given = {key: settings[key] for key in ("signature", "safe_mode") if key in settings}
            convert(source, reference, "float32", data, **given)
        float_file = LiteRTModel(reference)
        specs = [(spec.name, tuple(spec.shape[1:]), spec.dtype) for spec in float_file.inputs]
        samples = calibration_samples(data, specs, limit)
        layers = fidelity(reference, artifact, samples, limit=limit)
        expected = list(float_file.run(samples).values())
    return Diagnosis(
        layers=layers,
        gains={},
        floats=tuple(map(_float_row, artifact.float_islands)),
        score=_scored(artifact, samples, expected),
        remedy=None,
        samples=len(next(iter(samples.values()))),
    )


def _float_row(label: str) -> dict[str, str]:
    """A row for an operator that a file has in float, such as `"ELU -> net/elu"`."""
    kind, _, tensor = label.partition(" -> ")
    reason = "the converter has no integer form of it, or none for its inputs"
    return {"operation": tensor or label, "type": kind, "reason": reason}


def _quick_algorithms(settings: Mapping[str, Any]) -> list[Algorithm]:
    """What was run for the file, without learned rounding, which takes minutes."""
    effort = settings.get("effort")
    given = settings.get("algorithms") or (EFFORTS[effort] if effort else ())
    return [found for entry in given if not isinstance(found := get_algorithm(entry), AdaRound)]


def _gains(
    done: PostTraining, expected: Sequence[np.ndarray], inputs: Sequence[np.ndarray]
) -> dict[str, float]:
    graph = flatten(done.model)
    nodes = [node for node in graph.nodes if isinstance(node.operation, QuantizedLayer)]
    nodes = [node for node in nodes if node.operation.rule.kernels(node.operation.layer)]
    found = {}
    with progress_bar(len(nodes)) as advance:
        for node in nodes:
            with _more_bits(graph, node):
                outputs = predict(done.model, inputs)
            found[node.operation.name] = output_distance(expected, outputs).sqnr
            advance(f"without {node.operation.name}", 1)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


@contextmanager
def _more_bits(graph: Graph, node: Node) -> Iterator[None]:
    """Let a layer compute with 8-bit weights if it has fewer, else in float, inside the block."""
    wrapper = node.operation
    if wrapper.weight_bits < _FULL:
        with wrapper.computing_in(Scheme()):
            yield
        return
    switched = [wrapper, *_output_quantizers(graph, node)]
    try:
        for part in switched:
            part.quantizing = False
        yield
    finally:
        for part in switched:
            part.quantizing = True


def _output_quantizers(graph: Graph, node: Node) -> list[ActivationQuantizer]:
    """The quantizers of what a layer makes, behind the activation that fuses with it."""
    found: list[ActivationQuantizer] = list(node.operation.inner.values())
    open_nodes = [node]
    while open_nodes:
        for tensor in open_nodes.pop().outputs:
            for reader in graph.consumers(tensor):
                if isinstance(reader.operation, ActivationQuantizer):
                    found.append(reader.operation)
                elif not isinstance(reader.operation, QuantizedLayer):
                    open_nodes.append(reader)
    return found


def _try(
    model: keras.Model,
    layer: str,
    change: str,
    scheme: SchemeLike,
    data: Any,
    samples: dict[str, np.ndarray],
    expected: Sequence[np.ndarray],
    settings: Mapping[str, Any],
) -> Remedy:
    found = schemes.get(scheme)
    wanted: dict[Any, Any] = {"default": scheme}
    if isinstance(found, SchemeMap):
        wanted = {"default": found.default, **dict(found.entries)}
    wanted[layer] = change
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        artifact = convert(model, Path(folder) / "remedy.tflite", wanted, data, **settings)
        return Remedy(layer, change, wanted, _scored(artifact, samples, expected))


def _scored(
    artifact: Artifact, samples: dict[str, np.ndarray], expected: Sequence[np.ndarray]
) -> FileScore:
    outputs = list(LiteRTModel(artifact).run(samples).values())
    return FileScore(artifact.bytes, output_distance(expected, outputs))

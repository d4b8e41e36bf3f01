"""`mixed_precision`: which layers get 8 bits and which 4, under a budget of bytes or accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.evaluation.score import Metric, Score
from tfcompress.evaluation.trial_samples import TrialSamples, trial_samples
from tfcompress.export.exporter import export
from tfcompress.export.grid_restoration import packed_savings
from tfcompress.export.sources import predict
from tfcompress.export.tolerance import Tolerance
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.progress import progress_bar
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.post_training import quantize_post_training
from tfcompress.search.allocation import Option, cheapest
from tfcompress.search.allocation_table import (
    FLOAT_BITS,
    Allocation,
    LayerBits,
    ParetoPoint,
    scheme_of,
)
from tfcompress.search.methods import Bits, LayerWeights
from tfcompress.search.sensitivity import sensitivity

STRATEGIES = ("global", "distribution", "mixed")

# The flatbuffer aligns the bytes of every tensor.
_ALIGNMENT = 16
_CURVE_POINTS = 12
_MOST_FLOAT_LAYERS = 8


def mixed_precision(
    model: keras.Model,
    calibration: Any,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    strategy: str = "mixed",
    metric: str | Metric | None = None,
    algorithms: Sequence[Any] | None = None,
    effort: str | None = None,
    io: str = "int8",
    samples: int = 256,
    progress: bool = True,
) -> Allocation:
    """Choose 8 or 4 bits for the weights of every layer, so that a file keeps a budget.

    Activations have 8 bits. The bytes of the file are counted on an int8 file of the model, whose
    weights are looked up one by one: 4 bits save bytes where LiteRT stores them packed, in
    convolutions and dense layers. The choice is the optimum of an integer program, as far as the
    costs of layers add up.

    Args:
        model: A built float Keras model. It is left as it is.
        calibration: Typical inputs, or `(x, y)` with labels, in any form that `sensitivity` takes.
        max_bytes: Most bytes of the file. The cost is made least.
        max_drop: Most that may be lost on the samples, see `metric`; 0.01 is one point. The bytes
            are made least: choices are tried on the samples, and where 8 bits lose more,
            layers are left in float, those first that cost most.
        strategy: What the choice goes by. `"mixed"`: measured noise of the outputs with each layer
            alone at 8 and 4 bits. `"distribution"`: the squared error of the weights themselves,
            as a share of their power, which needs no runs of the model. `"global"`: all layers
            alike. Defaults to `"mixed"`.
        metric: What `max_drop` is about, see `Score`. Defaults to accuracy or squared error with
            labels, else to the share of predictions that change, or the noise of the outputs.
        algorithms: Post-training algorithms that the file will be made with, see `convert`.
        effort: Likewise.
        io: Type of the file's inputs and outputs. Defaults to `"int8"`.
        samples: Most samples to use. Defaults to 256.
        progress: Whether to show progress bars, where stderr is a terminal. Defaults to True.

    Returns:
        The `Allocation`: prints as a table; `scheme` for `quantize_aware` and `convert`.

    Raises:
        ValueError: If not exactly one budget is given, no choice keeps it, the strategy is unknown,
            or the model or the samples do not fit.
        ConversionError: If the int8 file cannot be made.

    Reference: Wang et al. 2019, "HAQ: Hardware-Aware Automated Quantization" (the problem); Hubara
    et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets", section 3.4
    (layer-wise costs and an integer program).

    Example:

    ```python
    found = mixed_precision(model, (x_val, y_val), max_bytes=60_000)
    print(found)
    artifact = tfcompress.convert(model, "model.tflite", found.scheme, x_val)
    ```
    """
    check_budget(max_bytes, max_drop, strategy)
    specs = [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]
    trials = trial_samples(calibration, specs, samples)
    task = _Task(model, trials, metric, algorithms, effort, io, progress)
    costs = _costs(task, strategy)
    curve = _curve(task, costs, strategy)
    if max_bytes is not None:
        chosen = _within_bytes(task, costs, strategy, max_bytes)
    else:
        chosen, curve = _within_drop(task, curve, max_drop or 0.0)
    return Allocation(
        model=model.name,
        strategy=strategy,
        layers=tuple(
            LayerBits(
                layer.name,
                layer.size,
                chosen.bits[layer.name],
                task.saved[layer.name],
                costs[layer.name],
            )
            for layer in task.layers
        ),
        bytes=chosen.bytes,
        metric=task.score.name,
        drop=chosen.drop,
        points=tuple(curve),
    )


def check_budget(max_bytes: float | None, max_drop: float | None, strategy: str) -> None:
    """Check the arguments of `mixed_precision` that need no model.

    Raises:
        ValueError: If not exactly one budget is given, or the strategy is unknown.
    """
    if (max_bytes is None) == (max_drop is None):
        raise ValueError(
            "Mixed precision needs exactly one budget, `max_bytes` or `max_drop`. Received: "
            f"max_bytes={max_bytes!r}, max_drop={max_drop!r}"
        )
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {', '.join(map(repr, STRATEGIES))}. Received: {strategy!r}"
        )


class _Task:
    """One model, its int8 file, and what can be tried on it."""

    def __init__(
        self,
        model: keras.Model,
        trials: TrialSamples,
        metric: str | Metric | None,
        algorithms: Sequence[Any] | None,
        effort: str | None,
        io: str,
        progress: bool,
    ) -> None:
        self.trials = trials
        self.progress = progress
        # Rounding is learned for the final bits only; here it would cost more than it tells.
        self._algorithms = [
            entry for entry in algorithms or () if getattr(entry, "name", entry) != "adaround"
        ]
        self._effort = "fast" if effort is not None else None
        done = self._quantized(model, "int8")
        self.reference: keras.Model = done.reference
        self._arrays = list(trials.inputs.values())
        self.score = Score(predict(model, self._arrays), trials.labels, metric)
        self._model = model
        self.layers = Bits().layers(self.reference)
        self.bytes, savings = _reference_file(done.model, done.samples, io)
        kernels = {id(v): v.path for v in done.model.variables}
        self.saved = dict.fromkeys((layer.name for layer in self.layers), 0)
        for wrapper in wrappers_of(done.model):
            paths = [kernels[id(v)] for v, _ in wrapper.rule.kernels(wrapper.layer)]
            if wrapper.name in self.saved:
                self.saved[wrapper.name] = max(0, sum(savings.get(path, 0) for path in paths))

    def _quantized(self, model: keras.Model, scheme: Any) -> Any:
        given = self._algorithms if self._effort is None else None
        return quantize_post_training(
            model, scheme, self.trials.inputs, algorithms=given, effort=self._effort
        )

    def size(self, bits: Mapping[str, int]) -> int:
        """Bytes of the file that are expected."""
        total = self.bytes
        for layer in self.layers:
            width = bits[layer.name]
            if width == 4:
                total -= self.saved[layer.name]
            elif width == FLOAT_BITS:
                total += 3 * layer.size
        return total

    def tried(self, bits: Mapping[str, int]) -> tuple[float, float]:
        """The drop and the SQNR of the model that is quantized so."""
        done = self._quantized(self._model, scheme_of(dict(bits)))
        outputs = predict(done.model, self._arrays)
        return self.score.drop(self.score.value(outputs)), self.score.sqnr(outputs)


def _reference_file(
    model: keras.Model, samples: Mapping[str, np.ndarray], io: str
) -> tuple[int, dict[str, int]]:
    """The size of the int8 file, and what packing each kernel saves in it."""
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        path = Path(folder) / "int8.tflite"
        # Only counted, never kept: how exact it is does not matter.
        artifact = export(model, path, io, calibration=samples, tolerance=Tolerance())
        grids = [grid for wrapper in wrappers_of(model) for grid in wrapper.kernel_grids()]
        return packed_savings(artifact.path.read_bytes(), grids)


def _costs(task: _Task, strategy: str) -> dict[str, dict[int, float]]:
    """What 8 and 4 bits cost, by layer."""
    method = Bits()
    if strategy == "mixed":
        found = sensitivity(
            task.reference,
            task.trials.inputs,
            [method],
            {"bits": (8, 4)},
            samples=None,
            progress=task.progress,
        )
        return {
            layer: {int(point.level): point.noise for point in points}
            for layer, points in found.curves("bits").items()
        }
    return {
        layer.name: {bits: _weight_noise(method, layer, bits) for bits in (8, 4)}
        for layer in task.layers
    }


def _weight_noise(method: Bits, layer: LayerWeights, bits: int) -> float:
    """Squared error of the weights as a share of their power."""
    power = error = 0.0
    for variable, value in method.values(layer, bits):
        weight = keras.ops.convert_to_numpy(variable.value).astype("float64")
        power += float(np.sum(np.square(weight)))
        error += float(np.sum(np.square(value - weight)))
    return error / power if power else 0.0


def _options(task: _Task, costs: Mapping[str, Mapping[int, float]]) -> dict[str, list[Option]]:
    found = {}
    for layer in task.layers:
        own, saved = costs[layer.name], task.saved[layer.name]
        found[layer.name] = [Option(8, 0.0, own[8], 0.0)]
        if saved:
            # What alignment may take back is not counted on.
            found[layer.name].append(Option(4, -float(saved - _ALIGNMENT), own[4], 0.0))
    return found


def _point(
    task: _Task, costs: Mapping[str, Mapping[int, float]], bits: dict[str, int]
) -> ParetoPoint:
    cost = sum(costs[layer][min(width, 8)] for layer, width in bits.items())
    return ParetoPoint(task.size(bits), cost, bits)


def _alike(task: _Task, width: int) -> dict[str, int]:
    return {la.name: width if width == 8 or task.saved[la.name] else 8 for la in task.layers}


def _within_bytes(
    task: _Task, costs: Mapping[str, Mapping[int, float]], strategy: str, max_bytes: int
) -> ParetoPoint:
    if strategy == "global":
        for width in (8, 4):
            point = _point(task, costs, _alike(task, width))
            if point.bytes <= max_bytes:
                return point
        raise ValueError(_too_small(max_bytes, point.bytes))
    least = task.size(_alike(task, 4))
    if max_bytes < least:
        raise ValueError(_too_small(max_bytes, least))
    options = _options(task, costs)
    # Within the last bytes of alignment the program may be stricter than the file.
    slack = min(max_bytes - task.bytes, 0)
    floor = sum(min(option.size for option in choices) for choices in options.values())
    chosen = cheapest(options, "cost", "size", max(slack, floor))
    return _point(task, costs, {layer: option.choice for layer, option in chosen.items()})


def _too_small(max_bytes: int, least: int) -> str:
    return (
        "No choice of 8 and 4 bits keeps the budget: with 4 bits wherever LiteRT stores them, the "
        f"file has about {least:,} bytes. Prune channels or remove layers first. Received: "
        f"max_bytes={max_bytes:,}"
    )


def _curve(
    task: _Task, costs: Mapping[str, Mapping[int, float]], strategy: str
) -> list[ParetoPoint]:
    """The best choices for budgets from 8 bits everywhere to 4, from most to fewest bytes."""
    ends = [_point(task, costs, _alike(task, width)) for width in (8, 4)]
    if strategy == "global":
        return ends if ends[0].bits != ends[1].bits else ends[:1]
    budgets = np.linspace(ends[0].bytes, ends[1].bytes, _CURVE_POINTS + 2)[1:-1]
    found = {tuple(end.bits.values()): end for end in ends}
    for budget in budgets:
        point = _within_bytes(task, costs, strategy, int(budget))
        found[tuple(point.bits.values())] = point
    return sorted(found.values(), key=lambda point: -point.bytes)


def _within_drop(
    task: _Task, curve: list[ParetoPoint], max_drop: float
) -> tuple[ParetoPoint, list[ParetoPoint]]:
    """The smallest choice on the curve that keeps the drop, found by bisection and tried."""
    tried: dict[int, ParetoPoint] = {}

    def keeps(number: int) -> bool:
        tried[number] = replace(curve[number], drop=task.tried(curve[number].bits)[0])
        return bool((tried[number].drop or 0.0) <= max_drop)

    kept, beyond = -1, len(curve)
    with progress_bar(len(curve).bit_length() + 1, task.progress) as advance:
        # The smallest first: where it is good enough, nothing else has to be tried.
        number = len(curve) - 1
        while beyond - kept > 1:
            if keeps(number):
                kept = number
            else:
                beyond = number
            advance("mixed precision: trying", 1)
            number = (kept + beyond) // 2
    points = [tried.get(i, point) for i, point in enumerate(curve)]
    if kept >= 0:
        return points[kept], points
    return _with_float_layers(task, points[0], max_drop), points


@dataclass(frozen=True)
class _Gain:
    layer: str
    sqnr: float


def _with_float_layers(task: _Task, start: ParetoPoint, max_drop: float) -> ParetoPoint:
    """Leave layers in float, those first that cost most, until the drop is kept."""
    gains = []
    with progress_bar(len(task.layers), task.progress) as advance:
        for layer in task.layers:
            bits = {**start.bits, layer.name: FLOAT_BITS}
            gains.append(_Gain(layer.name, task.tried(bits)[1]))
            advance(f"mixed precision: {layer.name} in float", 1)
    gains.sort(key=lambda gain: -gain.sqnr)
    bits, drop = dict(start.bits), start.drop or 0.0
    for gain in gains[:_MOST_FLOAT_LAYERS]:
        bits[gain.layer] = FLOAT_BITS
        drop = task.tried(bits)[0]
        if drop <= max_drop:
            return ParetoPoint(task.size(bits), start.cost, bits, drop)
    raise ValueError(
        f"No choice keeps the budget: 8 bits everywhere lose {start.drop or 0.0:.4f} of "
        f"{task.score.name}, and with {min(len(gains), _MOST_FLOAT_LAYERS)} layers in float it is "
        f"{drop:.4f}. Train quantization-aware, or allow more. Received: max_drop={max_drop}"
    )

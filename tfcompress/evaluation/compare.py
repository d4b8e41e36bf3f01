"""Comparing models: quality, size and speed, with deltas to the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.datasets.arrays import take
from tfcompress.evaluation import metrics
from tfcompress.evaluation.entries import Entry, open_entry
from tfcompress.evaluation.environment import environment
from tfcompress.evaluation.examples import disagreements, thumbnails
from tfcompress.evaluation.kernels import Kernel, counterparts, histograms, sqnr
from tfcompress.evaluation.latency import ROUNDS, interleaved, median_and_p95
from tfcompress.evaluation.problem import Problem
from tfcompress.evaluation.report import Report
from tfcompress.evaluation.results import EntryResult, Latency, LayerResult
from tfcompress.evaluation.samples import Samples, read_samples
from tfcompress.evaluation.sizes import Sizes
from tfcompress.progress import progress_bar

if TYPE_CHECKING:
    from tfcompress.evaluation.layer_fidelity import FidelityReport

# Beyond this many classes nobody reads a confusion matrix, and its JSON would outgrow the rest.
MOST_CONFUSED_CLASSES = 100


def compare(
    entries: Mapping[str, Any],
    data: Any,
    *,
    task: str = "auto",
    threads: int = 1,
    batch_size: int = 256,
    latency: bool = True,
    progress: bool = True,
    metadata: Mapping[str, Any] | None = None,
    fidelity: Mapping[str, FidelityReport] | None = None,
) -> Report:
    """Measure models on the same samples, side by side with the first one.

    Args:
        entries: What to compare, by name: Keras models, `Artifact`s, or paths of .keras, .h5 or
            .tflite files. The first is the baseline that all deltas refer to.
        data: `(x, y)`, a `tf.data.Dataset` of `(x, y)` batches, a `tfcompress` `Dataset` or the
            spec of one, such as `"digits"` (its test split is used). `x` is what the float model
            is fed, preprocessed, of shape `(n, ...)`; quantized files get it through their own
            scales, whatever its type: uint8 arrays are numbers too, not codes. `y` holds class ids
            `(n,)`, one-hot rows `(n, classes)`, or the numbers to predict.
        task: `"classification"`, `"regression"`, or `"auto"`, the default, which decides from
            labels and outputs. A model with one output and labels 0/1, integers or floats, is a
            binary classifier; its threshold is 0.5 if all outputs lie in 0 … 1, else 0. Say
            `"regression"` where zeros and ones are numbers to predict.
        threads: Threads for LiteRT. Defaults to 1.
        batch_size: Samples a step for Keras models. Defaults to 256.
        latency: Whether to time single invocations at batch 1, interleaved between the entries.
            Defaults to `True`.
        progress: Whether to show a progress bar, where stderr is a terminal. Defaults to `True`.
        metadata: Anything to keep with the report, such as a seed or a recipe. Added to the
            environment that is recorded anyway.
        fidelity: By name of an entry, what `tfcompress.fidelity` found, to be shown layer by layer.

    Returns:
        A `Report`: print it, show it in a notebook, `to_frame()`, `plot()`, `to_html(path)`,
        `to_json(path)`.

    Raises:
        ValueError: If there are no entries, an entry is none of the above, its file is truncated
            or not what its name says, it has several outputs or gives NaN; if the samples are
            empty, the labels do not fit the outputs, or `fidelity` names no entry.
        FileNotFoundError: If a file does not exist.

    Example:

    ```python
    report = tfc.compare({"float": "float.keras", "int8": artifact}, (x_test, y_test))
    print(report)
    report.to_html("report.html")
    ```
    """
    if not isinstance(entries, Mapping) or not entries:
        raise ValueError(
            "`entries` must map names to models, artifacts or paths, with at least one. "
            f"Received: {entries!r}"
        )
    if threads < 1 or batch_size < 1:
        raise ValueError(
            f"`threads` and `batch_size` must be at least 1. Received: threads={threads}, "
            f"batch_size={batch_size}"
        )
    fidelity = fidelity or {}
    for name in fidelity:
        if name not in entries:
            raise ValueError(
                f"`fidelity` must be by the names of entries, {list(entries)}. Received: {name!r}"
            )
    samples = read_samples(data)
    opened = [open_entry(str(name), source, threads) for name, source in entries.items()]

    outputs: dict[str, np.ndarray] = {}
    with progress_bar(len(opened) * len(samples.y), progress) as advance:
        for entry in opened:
            outputs[entry.name] = entry.predict(samples.x, batch_size, advance)
    problem = Problem.infer(samples.y, outputs, task)
    times = _times(opened, samples, progress) if latency else {}

    results = _results(opened, problem, outputs, times)
    for result in results:
        if result.name in fidelity:
            result.layer_fidelity = fidelity[result.name].to_dict()["rows"]
    shown = [item.index for result in results for item in result.disagreements]
    return Report(
        task=problem.task,
        data=samples.name,
        samples=len(samples.y),
        classes=_class_names(samples, problem),
        entries=results,
        examples=thumbnails(samples.x, shown),
        settings={"threads": threads, "batch_size": batch_size},
        metadata={"environment": environment(), **(metadata or {})},
    )


def _times(entries: list[Entry], samples: Samples, progress: bool) -> dict[str, Latency]:
    one = take(samples.x, np.arange(1))
    with progress_bar(len(entries) * ROUNDS, progress) as advance:
        measured = interleaved(
            {entry.name: entry.call(one) for entry in entries},
            advance=lambda name, steps: advance(f"{name}: latency", steps),
        )
    return {
        entry.name: Latency(measured[entry.name], entry.threads, entry.runtime) for entry in entries
    }


def _results(
    entries: list[Entry],
    problem: Problem,
    outputs: Mapping[str, np.ndarray],
    times: Mapping[str, Latency],
) -> list[EntryResult]:
    predictions = {name: problem.predictions(output) for name, output in outputs.items()}
    baseline = predictions[entries[0].name]
    results: list[EntryResult] = []
    original: list[Kernel] = []
    for entry in entries:
        sizes = entry.sizes()
        # The baseline's weights are what the others' are compared with.
        original = original or sizes.kernels
        before = counterparts(sizes.kernels, original) if results else {}
        result = EntryResult(
            name=entry.name,
            kind=entry.kind,
            source=entry.source,
            figures={**metrics.scores(problem, predictions[entry.name]), **sizes.figures()},
            latency=times.get(entry.name),
            weights=sizes.weights,
            float_islands=sizes.float_islands or [],
            fidelity=entry.fidelity,
            layers=_with_sqnr(sizes, before),
            histograms=histograms(sizes.kernels, before),
        )
        if problem.task == "classification":
            _add_classification(
                result, problem, outputs[entry.name], predictions[entry.name], baseline
            )
        if result.latency is not None:
            median, p95 = median_and_p95(result.latency.samples)
            result.figures |= {"latency_ms": median, "latency_p95_ms": p95}
        results.append(result)
    _add_ratios(results)
    return results


def _with_sqnr(sizes: Sizes, before: Mapping[str, np.ndarray]) -> list[LayerResult]:
    """Return the layers with the distance of their largest weight from the baseline's."""
    largest_first = sorted(sizes.kernels, key=lambda kernel: -kernel.values.size)
    found = {k.name: sqnr(before[k.name], k.values) for k in largest_first if k.name in before}
    return [
        # A file's layer is called after its weight, a Keras model's weight after its layer.
        replace(layer, sqnr=next((found[n] for n in found if _owns(layer.name, n)), None))
        for layer in sizes.layers
    ]


def _owns(layer: str, weight: str) -> bool:
    return weight == layer or weight.startswith(f"{layer}/")


def _add_classification(
    result: EntryResult,
    problem: Problem,
    outputs: np.ndarray,
    predicted: np.ndarray,
    baseline: np.ndarray,
) -> None:
    result.figures["agreement"] = float((predicted == baseline).mean())
    probabilities = problem.probabilities(outputs)
    result.figures["calibration_error"] = None
    if probabilities is not None:
        result.calibration = metrics.calibration_bins(probabilities, problem.labels)
        result.figures["calibration_error"] = metrics.calibration_error(result.calibration)
    result.per_class = metrics.scores_per_class(problem, predicted)
    if problem.classes <= MOST_CONFUSED_CLASSES:
        result.confusion = metrics.confusion(problem, predicted).tolist()
    result.disagreement_count = int((predicted != baseline).sum())
    if len(predicted) == len(outputs):
        result.disagreements = disagreements(problem, outputs, baseline, predicted)


def _add_ratios(results: list[EntryResult]) -> None:
    reference = next((r.figures for r in results if r.figures["bytes"] is not None), None)
    for result in results:
        for key, size in (("ratio", "bytes"), ("gzip_ratio", "gzip_bytes")):
            own = result.figures[size]
            whole = None if reference is None else reference[size]
            result.figures[key] = None if own is None or whole is None else whole / own


def _class_names(samples: Samples, problem: Problem) -> list[str] | None:
    if problem.task == "regression":
        return None
    if samples.classes is not None and len(samples.classes) == problem.classes:
        return list(samples.classes)
    return [str(i) for i in range(problem.classes)]

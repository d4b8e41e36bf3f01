"""`sensitivity`: what compressing each layer alone costs, without any training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import keras

from tfcompress.evaluation.score import Metric, Score
from tfcompress.evaluation.trial_samples import trial_samples
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.progress import progress_bar
from tfcompress.search.curves import Sensitivity, SensitivityPoint
from tfcompress.search.measurement_cache import MeasurementCache, fingerprint
from tfcompress.search.method_registry import get_methods
from tfcompress.search.methods import LayerWeights, Method
from tfcompress.search.predictor import Predictor, swapped


def sensitivity(
    model: keras.Model,
    data: Any,
    methods: str | Sequence[str | Method] = ("sparsity", "bits"),
    levels: Mapping[str, Sequence[float]] | None = None,
    metric: str | Metric | None = None,
    cache: str | PathLike[str] | None = None,
    *,
    samples: int | None = 512,
    batch_size: int = 128,
    progress: bool = True,
) -> Sensitivity:
    """Measure what compressing each layer costs, one layer and one level at a time.

    Nothing is trained. The weights of one layer are changed in place, the model predicts, and the
    weights come back, also when something fails: there is one model and one compiled function.

    Args:
        model: A built float model. It is left as it was.
        data: `(x, y)`, a `tf.data.Dataset` of `(x, y)` batches, a tfcompress `Dataset` or the spec
            of one (validation samples, else training samples); or inputs alone, in any form that
            `calibration` takes. Better not the test samples, if the choice is to be judged on them.
        methods: `"sparsity"` (the smallest weights become zero), `"bits"` (weights on a grid of so
            many bits, per output channel), `"channels"` (the least important channels of a
            dependency group become zero), or several. Defaults to the first two.
        levels: Levels by method, in place of the default ones: shares of zeros or of channels, and
            whole numbers from 2 to 8.
        metric: What is measured beside the signal-to-noise ratio of the outputs: `"accuracy"`,
            `"loss"`, `"mse"`, `"agreement"`, `"noise"`, or `metric(labels, outputs)`, of which more
            is better; see `Score`. Defaults to accuracy for labels that are classes, mean squared
            error for numbers, and without labels to what can be said without them.
        cache: JSON file that keeps what is measured, so that an interrupted search goes on where it
            was and a repeated one costs nothing. It knows weights, samples and metric by a hash; a
            function as metric is known by its name. Defaults to None: no file.
        samples: Most samples to use, evenly spaced. Defaults to 512; `None` uses all.
        batch_size: Samples a step. Defaults to 128.
        progress: Whether to show a progress bar, where stderr is a terminal. Defaults to True.

    Returns:
        The `Sensitivity`: prints as a table, `to_frame()`, `plot()`, and how to spend a budget by
        `sparsities(target)` and `bits(max_bytes=…)`.

    Raises:
        ValueError: If the model was never built, a method, level or metric is unknown, no layer can
            be compressed by a method, the data do not fit, or `cache` is another kind of file.

    Reference: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", section 4 (figure 6); Li et al. 2017, "Pruning Filters for Efficient ConvNets",
    section 3.2.

    Example:

    ```python
    found = tfcompress.sensitivity(model, (x_val, y_val), cache="sensitivity.json")
    print(found)
    found.plot("bits")
    found.sparsities(0.8)    # {"conv1": 0.41, "conv2": 0.83, ...}
    ```
    """
    chosen = get_methods(methods)
    steps = {method.name: _levels(method, levels) for method in chosen}
    for name in levels or {}:
        if name not in steps:
            raise ValueError(
                f"`levels` must be about the methods {list(steps)}. Received: {name!r}"
            )
    trials = trial_samples(data, sample_specs(model), samples)
    predict = Predictor(model, trials, batch_size)
    score = Score(predict(), trials.labels, metric)
    kept = MeasurementCache(cache, fingerprint(model, trials, score.name))
    layers = {method.name: _layers(method, model) for method in chosen}
    total = sum(len(layers[name]) * len(steps[name]) for name in steps)
    points = []
    with progress_bar(total, progress) as advance:
        for method in chosen:
            for layer in layers[method.name]:
                try:
                    for level in steps[method.name]:
                        numbers = _measure(method, layer, level, predict, score, kept)
                        points.append(
                            SensitivityPoint(method.name, layer.name, level, layer.size, *numbers)
                        )
                        advance(f"{method.name}: {layer.name}", 1)
                finally:
                    kept.save()
    return Sensitivity(
        model=model.name,
        metric=score.name,
        better=score.better,
        baseline=score.baseline,
        samples=trials.count,
        points=tuple(points),
    )


def _levels(method: Method, levels: Mapping[str, Sequence[float]] | None) -> list[float]:
    given = (levels or {}).get(method.name)
    if given is None:
        return list(method.levels)
    for level in given:
        method.check(level)
    if not len(given):
        raise ValueError(f"`levels` must hold at least one level. Received: none for {method.name}")
    return list(dict.fromkeys(given))


def _layers(method: Method, model: keras.Model) -> list[LayerWeights]:
    found = method.layers(model)
    if not found:
        raise ValueError(
            f"The model '{model.name}' has no layer that the method {method.name!r} applies to. "
            "Leave the method out."
        )
    return found


def _measure(
    method: Method,
    layer: LayerWeights,
    level: float,
    predict: Predictor,
    score: Score,
    cache: MeasurementCache,
) -> list[float]:
    """The metric, how much worse it is, and the SQNR, from the cache if they are there."""
    name = f"{method.key} {layer.name} {level:g}"
    known = cache.get(name)
    if known is not None:
        return known
    with swapped(method.values(layer, level)):
        outputs = predict()
    value = score.value(outputs)
    drop = score.drop(value)
    numbers = [value, drop if math.isfinite(drop) else math.inf, score.sqnr(outputs)]
    cache.put(name, numbers)
    return numbers

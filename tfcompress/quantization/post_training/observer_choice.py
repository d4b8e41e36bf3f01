"""Choosing how activation ranges are found, by what it does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from tfcompress.evaluation.output_distance import output_distance
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.observers import Percentile
from tfcompress.quantization.post_training.algorithm import LayerOutcome, Outcome
from tfcompress.quantization.post_training.lockstep import GraphValues

# What is tried beside the scheme's own observer. Outliers are what costs range, above all in the
# states of recurrent layers, whose steps share one.
CANDIDATES: tuple[Percentile, ...] = (
    Percentile(percentile=99.99),
    Percentile(percentile=99.9),
    Percentile(percentile=99.5),
)


def choose_observer(
    model: keras.Model,
    quantize: Callable[[Percentile | None], keras.Model],
    samples: Mapping[str, np.ndarray],
) -> tuple[keras.Model, Outcome]:
    """Quantize with several observers and keep what disturbs the outputs least.

    Weights stay in float for the comparison, so that their errors do not hide those of ranges.

    Args:
        model: The float model.
        quantize: Returns the calibrated quantized model for an observer; None is the scheme's own.
        samples: Calibration samples of shape (n, ...) by input name.

    Returns:
        The best of the quantized models, and what was measured.
    """
    expected = _outputs(model, samples)
    rows: list[LayerOutcome] = []
    best, quality, chosen = None, -np.inf, ""
    tried: tuple[Percentile | None, ...] = (None, *CANDIDATES)
    for observer in tried:
        quantized = quantize(observer)
        wrappers = wrappers_of(quantized)
        for wrapper in wrappers:
            wrapper.quantizing = False
        found = output_distance(expected, _outputs(quantized, samples)).sqnr
        for wrapper in wrappers:
            wrapper.quantizing = True
        name = "its own" if observer is None else f"{observer.name} {observer.percentile:g}"
        rows.append(LayerOutcome(name, {"sqnr": found}))
        if best is None or found > quality:
            best, quality, chosen = quantized, found, name
    if best is None:
        raise RuntimeError("No observer was tried.")
    note = f"Best on the outputs: {chosen}, SQNR {quality:.1f} dB from ranges alone."
    return best, Outcome("observer", tuple(rows), note)


def _outputs(model: keras.Model, samples: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    values = GraphValues(model, samples)
    for node in values.graph.nodes:
        values.run(node)
    return [
        np.concatenate([keras.ops.convert_to_numpy(batch) for batch in values.of(tensor)])
        for tensor in values.graph.outputs
    ]

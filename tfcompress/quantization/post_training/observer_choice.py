"""Choosing how activation ranges are found, by what it does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

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

# A candidate must be better by this many standard errors of the mean difference, sample by sample,
# and by this share of the loss: the samples are few, and the ranges were fitted to them.
_STANDARD_ERRORS = 2.0
_SHARE = 0.1

# Half a step of a softmax's outputs, which are codes of 1/256.
_SMALLEST_PROBABILITY = 1 / 512


def choose_observer(
    model: keras.Model,
    quantize: Callable[[Percentile | None], keras.Model],
    samples: Mapping[str, np.ndarray],
) -> tuple[keras.Model, Outcome]:
    """Quantize with several observers and keep what disturbs the outputs least.

    Outputs that are probabilities are compared by their Kullback-Leibler divergence from the float
    model's, others by their squared error. The scheme's own observer stays unless another one is
    clearly better. Weights stay in float for the comparison, so that their errors do not hide those
    of ranges.

    Args:
        model: The float model.
        quantize: Returns the calibrated quantized model for an observer; None is the scheme's own.
        samples: Calibration samples of shape (n, ...) by input name.

    Returns:
        The best of the quantized models, and what was measured.
    """
    expected = _outputs(model, samples)
    own = quantize(None)
    base = _losses_of(own, expected, samples)
    best, lowest, chosen = own, float(base.mean()), "its own"
    rows = [LayerOutcome("its own", {"loss": lowest})]
    for observer in CANDIDATES:
        quantized = quantize(observer)
        losses = _losses_of(quantized, expected, samples)
        loss, name = float(losses.mean()), f"{observer.name} {observer.percentile:g}"
        rows.append(LayerOutcome(name, {"loss": loss}))
        if loss < lowest and is_clearly_lower(losses, base):
            best, lowest, chosen = quantized, loss, name
    note = f"Best on the outputs: {chosen}, loss {lowest:.3g} from ranges alone."
    return best, Outcome("observer", tuple(rows), note)


def is_clearly_lower(losses: np.ndarray, base: np.ndarray) -> bool:
    """Whether losses are lower than others by more than chance explains.

    Args:
        losses: One for each sample, shape (n,).
        base: Likewise, on the same samples.
    """
    gains = base - losses
    gain, error = float(gains.mean()), float(gains.std()) / np.sqrt(max(len(gains) - 1, 1))
    return gain > max(_STANDARD_ERRORS * error, _SHARE * float(base.mean()))


def output_losses(expected: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> np.ndarray:
    """How far the outputs of a model are from those of a reference, sample by sample.

    Args:
        expected: Reference outputs, shape (n, ...), one array for each output of the model.
        seen: Likewise.

    Returns:
        Float64 of shape (n,): for probabilities over the last axis the Kullback-Leibler divergence
        in nats, for other outputs the squared error in shares of the reference's variance; the sum
        over the outputs.
    """
    total = np.zeros(len(expected[0]))
    for wanted, found in zip(expected, seen, strict=True):
        wanted, found = np.asarray(wanted, "float64"), np.asarray(found, "float64")
        if _are_probabilities(wanted):
            wanted, found = (np.maximum(x, _SMALLEST_PROBABILITY) for x in (wanted, found))
            wanted, found = (x / x.sum(-1, keepdims=True) for x in (wanted, found))
            errors = np.sum(wanted * np.log(wanted / found), axis=-1, keepdims=True)
        else:
            errors = np.square(wanted - found) / max(float(wanted.var()), 1e-30)
        total += errors.reshape(len(errors), -1).mean(axis=1)
    return total


def _are_probabilities(values: np.ndarray) -> bool:
    if values.ndim < 2 or values.shape[-1] < 2 or values.min() < 0:
        return False
    return bool(np.abs(values.sum(-1) - 1).max() < 1e-3)


def _losses_of(
    quantized: keras.Model, expected: Sequence[np.ndarray], samples: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the activation ranges of a quantized model do to its outputs."""
    wrappers = wrappers_of(quantized)
    for wrapper in wrappers:
        wrapper.quantizing = False
    try:
        return output_losses(expected, _outputs(quantized, samples))
    finally:
        for wrapper in wrappers:
            wrapper.quantizing = True


def _outputs(model: keras.Model, samples: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    values = GraphValues(model, samples)
    for node in values.graph.nodes:
        values.run(node)
    return [
        np.concatenate([keras.ops.convert_to_numpy(batch) for batch in values.of(tensor)])
        for tensor in values.graph.outputs
    ]

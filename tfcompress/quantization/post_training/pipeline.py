"""From a trained float model to a quantized one, with samples but without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.progress import progress_bar
from tfcompress.quantization import observers, schemes
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.instrument import quantize_aware
from tfcompress.quantization.post_training.algorithm import (
    Algorithm,
    AlgorithmLike,
    Outcome,
    get_algorithm,
)
from tfcompress.quantization.post_training.batchnorm_folding import fold_batchnorms
from tfcompress.quantization.post_training.observer_choice import choose_observer
from tfcompress.quantization.schemes import Scheme, SchemeLike, SchemeMap

# What `effort` stands for, where `algorithms` are not given.
EFFORTS: dict[str, tuple[str, ...]] = {
    "fast": ("cross_layer_equalization", "bias_absorption", "bias_correction"),
    "best": ("cross_layer_equalization", "bias_absorption", "adaround", "bias_correction"),
}

# Below so many bits clipping the weights for least error pays.
_FEW_BITS = 8


@dataclass(frozen=True, eq=False)
class PostTraining:
    """A model that was quantized after training.

    Attributes:
        model: The quantized model: evaluate it, export it, or train it further.
        reference: The float model that it was made of, with batch normalizations folded and what
            the algorithms changed without changing what it computes.
        outcomes: What each algorithm did.
        samples: The calibration samples by input name, shape (n, ...).
    """

    model: keras.Model
    reference: keras.Model
    outcomes: tuple[Outcome, ...]
    samples: dict[str, np.ndarray]

    def __str__(self) -> str:
        return "\n".join(map(str, self.outcomes))


def quantize_post_training(
    model: keras.Model,
    scheme: SchemeLike = "int8",
    calibration: Any = None,
    *,
    observer: str | Mapping[str, Any] | observers.Observer | None = None,
    algorithms: Sequence[AlgorithmLike] | None = None,
    effort: str | None = None,
    limit: int = 512,
) -> PostTraining:
    """Quantize a trained model with calibration samples and without training.

    Batch normalizations are folded; algorithms that act on the float model run in the order given,
    then the model is quantized and calibrated, then the algorithms that act on the quantized model
    run in that order.

    Args:
        model: A built float Keras model. It stays as it is.
        scheme: A scheme, its name, or schemes by layer; see `quantize_aware`. Defaults to `"int8"`.
        calibration: Typical inputs without labels, 100 to 500, in any form that `quantize_aware`
            takes.
        observer: How activation ranges are found, in place of the scheme's own observer: `"mse"`,
            for example. Defaults to None: the extremes of the samples.
        algorithms: Names or objects, in the order in which to run them. Defaults to None: those of
            `effort`.
        effort: `"fast"`: equalization, bias absorption and bias correction, a few passes over the
            samples. `"best"`: with AdaRound in addition, weights of fewer than 8 bits clipped for
            least error, and another observer where that disturbs the outputs clearly less and none
            is given.
            Defaults to None: `"fast"` where no algorithms are given.
        limit: Most samples to use. Defaults to 512.

    Returns:
        The quantized model, and what each algorithm did.

    Raises:
        ValueError: If samples are missing or do not fit, a name is not known, `algorithms` and
            `effort` are both given, or the model is not built, cannot be traced or is quantized
            already.

    Example:

    ```python
    from tfcompress.quantization.post_training import quantize_post_training

    done = quantize_post_training(model, "w4a8", x_train[:256], effort="best")
    print(done)
    artifact = tfcompress.export(done.model, "model.tflite", calibration=x_train[:256])
    ```
    """
    found = _schemes(scheme, observer, effort)
    chosen = _algorithms(algorithms, effort)
    if wrappers_of(model):
        raise ValueError(
            f"The model '{model.name}' is quantization-aware already. Export it, or give the float "
            "model it was made from."
        )
    if calibration is None:
        raise ValueError(
            "Post-training quantization needs `calibration`: 100 to 500 typical inputs. "
            "Received: None"
        )
    specs = [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]
    samples = calibration_samples(calibration, specs, limit)
    patterns = [pattern for pattern, _ in found.entries] if isinstance(found, SchemeMap) else None
    reference = fold_batchnorms(model, keep=patterns)
    outcomes: list[Outcome | None] = []
    with progress_bar(2 * len(chosen) + 1) as advance:
        for algorithm in chosen:
            outcomes.append(algorithm.prepare(reference, samples))
            advance(algorithm.name, 1)

        def quantize(other: observers.Observer | None = None) -> keras.Model:
            schemes_now = found if other is None else _schemes(found, other, None)
            return quantize_aware(reference, schemes_now, calibration=samples, verbose=False)

        if effort == "best" and observer is None:
            quantized, outcome = choose_observer(reference, quantize, samples)
            outcomes.append(outcome)
        else:
            quantized = quantize()
        advance("calibration", 1)
    for algorithm in chosen:
        outcomes.append(algorithm.refine(reference, quantized, samples))
    done = tuple(outcome for outcome in outcomes if outcome is not None)
    return PostTraining(quantized, reference, done, samples)


def _algorithms(given: Sequence[AlgorithmLike] | None, effort: str | None) -> list[Algorithm]:
    if given is not None and effort is not None:
        raise ValueError(
            "`effort` stands for a list of algorithms: give one of the two. Received: "
            f"algorithms={given!r}, effort={effort!r}"
        )
    if isinstance(given, (str, Mapping)):
        given = [given]
    if given is not None:
        return [get_algorithm(entry) for entry in given]
    if effort is not None and effort not in EFFORTS:
        raise ValueError(f"`effort` must be one of {list(EFFORTS)}. Received: {effort!r}")
    return [get_algorithm(name) for name in EFFORTS[effort or "fast"]]


def _schemes(scheme: SchemeLike, observer: Any, effort: str | None) -> Scheme | SchemeMap:
    def adapted(part: Scheme | None) -> Scheme | None:
        if part is None:
            return None
        if observer is not None:
            part = replace(part, observer=observers.get(observer), name="")
        clipped = part.weight_range == "max" and part.weight_bits < _FEW_BITS
        if effort == "best" and clipped and part.learned is None:
            part = replace(part, weight_range="mse", name="")
        return part

    found = schemes.get(scheme)
    if isinstance(found, SchemeMap):
        entries = tuple((pattern, adapted(part)) for pattern, part in found.entries)
        return SchemeMap(adapted(found.default), entries)
    return adapted(found) or found

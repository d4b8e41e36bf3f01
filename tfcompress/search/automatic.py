"""`convert(scheme="auto")`: mixed precision under a budget, and the file that keeps it."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from tfcompress.evaluation.trial_samples import trial_samples
from tfcompress.export.artifact import Artifact
from tfcompress.export.conversion_options import ConversionOptions
from tfcompress.export.post_training import convert_quantized, keras_source
from tfcompress.files import atomic_path
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.search.mixed_precision import check_budget, mixed_precision

_ATTEMPTS = 3


def convert_automatically(
    source: Any,
    path: str | PathLike[str],
    calibration: Any,
    options: ConversionOptions,
    *,
    max_bytes: int | None,
    max_drop: float | None,
    strategy: str,
) -> Artifact:
    """Choose the bits of every layer under a budget, and convert with them.

    Args:
        source: A Keras model, or a `.keras` or `.h5` file.
        path: The `.tflite` file to write.
        calibration: Typical inputs, or `(x, y)`.
        options: What else is asked for. Where it names no algorithms, those of `effort="fast"` run.
        max_bytes: Most bytes of the file.
        max_drop: Most that may be lost on the samples.
        strategy: `"mixed"`, `"distribution"` or `"global"`.

    Returns:
        The `Artifact`; its notes hold the allocation and the Pareto curve.

    Raises:
        ValueError: As `mixed_precision` and `convert_quantized` raise.
    """
    check_budget(max_bytes, max_drop, strategy)
    if calibration is None:
        raise ValueError(
            "The scheme 'auto' needs `calibration`: a few hundred typical inputs, or (x, y) to "
            "count what is lost in accuracy. Received: None"
        )
    if options.algorithms is None and options.effort is None:
        options = replace(options, effort="fast")
    model = keras_source(source, options.safe_mode)
    specs = [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]
    samples = trial_samples(calibration, specs, 256)
    given = calibration if samples.labels is None else (samples.inputs, samples.labels)
    budget = max_bytes
    # The file takes its place only when it is known to keep the budget.
    with atomic_path(path) as aside:
        for _ in range(_ATTEMPTS):
            allocation = mixed_precision(
                model,
                given,
                max_bytes=budget,
                max_drop=max_drop,
                strategy=strategy,
                algorithms=options.algorithms,
                effort=options.effort,
                io=options.io,
            )
            artifact = convert_quantized(model, aside, allocation.scheme, samples.inputs, options)
            if max_bytes is None or artifact.bytes <= max_bytes:
                break
            budget = (budget or max_bytes) - (artifact.bytes - max_bytes)
        else:
            raise ValueError(
                f"The file has {artifact.bytes:,} bytes and was expected to have "
                f"{allocation.bytes:,}. Received: max_bytes={max_bytes:,}"
            )
    print(allocation)
    artifact = replace(
        artifact,
        path=Path(path).expanduser(),
        notes=[allocation.summary, allocation.curve, *artifact.notes],
    )
    artifact.save()
    return artifact

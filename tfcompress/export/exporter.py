"""From a trained model to a TFLite file that is proven to compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import keras
import numpy as np
from absl import logging

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.export.artifact import Artifact
from tfcompress.export.conversion import InputSpec, get_scheme, static_shapes
from tfcompress.export.converter import RANDOM, convert, write_artifact
from tfcompress.export.deployment import (
    DeployedModel,
    deployment_model,
    is_quantization_aware,
)
from tfcompress.export.strip import check_zeros, strip
from tfcompress.export.tolerance import Tolerance
from tfcompress.export.verification import random_samples
from tfcompress.export.worker import default_worker
from tfcompress.graph import flatten
from tfcompress.graph.flat import require_keras_model
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of
from tfcompress.quantization.fake_quant import SMALLEST_RANGE
from tfcompress.quantization.plan import left_in_float
from tfcompress.quantization.twin import quantized_form


def export(
    model: keras.Model,
    path: str | PathLike[str],
    io: str = "int8",
    calibration: Any = None,
    tolerance: Tolerance | float | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    time_limit: float = 600,
) -> Artifact:
    """Strip a trained model, convert it to TFLite, and prove the file against the model.

    A quantization-aware model, or one that was trained with the callback
    `QuantizationAwareTraining`, becomes an integer file with the ranges that it learned. Any other
    model, pruned or not, becomes an integer file by post-training quantization when `calibration`
    is given, or a float file with `io="float32"`.

    The file is inspected operator by operator and run, with LiteRT's default and its reference
    kernels, on the calibration samples; its outputs are compared with those of `model` in quanta
    (steps of the output's scale). Only then it replaces what was at `path`, and `<path>.json` with
    all that is known about it is written beside it.

    Args:
        model: A built Keras model, trained on any backend. It stays as it is.
        path: The `.tflite` file to write.
        io: Dtype of inputs and outputs: `"int8"`, `"uint8"` or `"float32"`. Defaults to `"int8"`.
        calibration: Samples on which the file is proven: an array of shape `(samples, ...)`, a dict
            of arrays, a `tf.data.Dataset` or any iterable of batches. Defaults to None: random
            values within the range of the model's inputs.
        tolerance: How far the file may be from the model: a number of quanta, or a `Tolerance`.
            Defaults to 4 quanta for quantization-aware models.
        preprocessing: JSON-able description of what the model must be fed; kept in the sidecar.
        time_limit: Seconds after which the conversion is given up. Defaults to 600.

    Returns:
        The `Artifact`: path, bytes, gzip bytes, operators, float islands, sparsity, fidelity.

    Raises:
        ValueError: If `model` is no Keras model, `io` is not known, `tolerance` is invalid, the
            model was never built, has no ranges, was changed after pruning, leaves a shape open
            that no samples fix, or the calibration data do not fit.
        PermissionError: If the output folder cannot be written to.
        ConversionError: If the converter failed, crashed or took too long.
        FidelityError: If the file does not compute what the model computes.

    Example:

    ```python
    artifact = tfcompress.export(qat, "model.tflite", calibration=x_test[:256])
    print(artifact.bytes, artifact.fidelity.max_quanta)
    ```
    """
    require_keras_model(model)
    Tolerance.of(tolerance, "fake_quant")  # what is no tolerance is refused before any work
    check_zeros(model)
    model = quantized_form(model)
    if not is_quantization_aware(model):
        return _export_float(model, path, io, calibration, tolerance, preprocessing, time_limit)
    get_scheme("fake_quant", io)
    default_worker().prepare()
    specs = [InputSpec(*entry) for entry in model_inputs(model)]
    if calibration is None:
        samples, source = _samples_in_range(model, specs), RANDOM
    else:
        wanted = [(spec.name, spec.shape[1:], spec.dtype) for spec in specs]
        samples, source = calibration_samples(calibration, wanted), "calibration"
    fixed = static_shapes(specs, samples)
    shapes = [fixed[spec.name] for spec in specs]
    _warn_of_vanishing_ranges(model)
    return write_artifact(
        DeployedModel(deployment_model(model, shapes), specs, model),
        path,
        scheme="fake_quant",
        io=io,
        samples=samples,
        source=source,
        tolerance=tolerance,
        preprocessing=preprocessing,
        plan_skipped=left_in_float(flatten(model)),
        time_limit=time_limit,
        scheme_name=_scheme_name(model),
    )


def _scheme_name(model: keras.Model) -> str:
    """The names of the schemes of a model's layers, each once."""
    return "+".join(dict.fromkeys(w.scheme.name for w in wrappers_of(model))) or "int8"


def _warn_of_vanishing_ranges(model: keras.Model) -> None:
    found = [q for q in quantizers_of(model) if q.range and np.ptp(q.range) < 2 * SMALLEST_RANGE]
    if found:
        logging.warning(
            "%d activations are zero but for a millionth, the first at '%s': a signal dies out "
            "there, as in deep networks with random weights. LiteRT refuses some of such files.",
            len(found),
            found[0].name,
        )


def _export_float(
    model: keras.Model,
    path: str | PathLike[str],
    io: str,
    calibration: Any,
    tolerance: Tolerance | float | None,
    preprocessing: Mapping[str, Any] | None,
    time_limit: float,
) -> Artifact:
    if calibration is None and io != "float32":
        raise ValueError(
            f"The model '{model.name}' is not quantization-aware, so an integer file needs "
            "`calibration` samples for post-training quantization. Train it with "
            '`tfcompress.quantize_aware` first, give `calibration`, or pass `io="float32"` for a '
            f"float file. Received: io={io!r}, calibration=None"
        )
    scheme = "float32" if calibration is None else "int8"
    logging.info("'%s' is not quantization-aware: converting it as %s", model.name, scheme)
    return convert(
        strip(model),
        path,
        scheme,
        calibration,
        io,
        tolerance=tolerance,
        preprocessing=preprocessing,
        time_limit=time_limit,
    )


def _samples_in_range(model: keras.Model, specs: list[InputSpec]) -> dict[str, np.ndarray]:
    """Random values over the ranges that the input quantizers have learned."""
    samples = random_samples(specs, static_shapes(specs, None))
    graph = flatten(model)
    for tensor, spec in zip(graph.inputs, specs, strict=True):
        for node in graph.consumers(tensor):
            if isinstance(node.operation, ActivationQuantizer) and node.operation.range:
                low, high = node.operation.range
                values = samples[spec.name]
                if values.dtype.kind == "f":
                    samples[spec.name] = low + (high - low) * values
    return samples

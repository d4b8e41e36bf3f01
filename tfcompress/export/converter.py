"""`convert`: any model to a verified TFLite file, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.export.artifact import Artifact
from tfcompress.export.conversion import SCHEMES, get_scheme, static_shapes
from tfcompress.export.conversion_options import ConversionOptions
from tfcompress.export.float_file import FloatFile
from tfcompress.export.inspection import Inspection, inspect_file
from tfcompress.export.learned_form import learned_form
from tfcompress.export.precision import in_float32
from tfcompress.export.source_checks import refuse_own_source, refuse_signature
from tfcompress.export.sources import LiveModel, SavedModel, open_source
from tfcompress.export.tolerance import Tolerance
from tfcompress.export.verification import (
    FidelityError,
    NonFiniteModelError,
    random_samples,
    verify,
)
from tfcompress.files import atomic_path
from tfcompress.interop.modern import modern

if TYPE_CHECKING:
    from tfcompress.quantization.observers import Observer
    from tfcompress.quantization.post_training import AlgorithmLike
    from tfcompress.quantization.schemes import SchemeLike

RANDOM = "random within the input range"


def convert(
    source: Any,
    path: str | PathLike[str],
    scheme: SchemeLike = "int8",
    calibration: Any = None,
    io: str = "int8",
    *,
    observer: str | Mapping[str, Any] | Observer | None = None,
    algorithms: Sequence[AlgorithmLike] | None = None,
    effort: str | None = None,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    strategy: str = "mixed",
    tolerance: Tolerance | float | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    signature: str | None = None,
    safe_mode: bool = True,
    fused_lstm: bool = False,
    time_limit: float = 600,
) -> Artifact:
    """Convert a trained model to a TFLite file and prove the file against the model.

    The conversion runs in a child process, since the converter can crash. The file is written
    aside and renamed when it passed; a failure leaves an earlier file at `path` untouched.
    Shapes in the file are fixed, with a batch of 1 where the model leaves it open.

    Args:
        source: A Keras model (left untouched; any backend), a `.keras` or `.h5` file, a SavedModel
            folder, a float `.tflite` file, or a tf_keras (Keras 2) model or its file, with or
            without tfmot's wrappers, see `from_tf_keras`. Where quantization-aware training, of
            tfcompress or of tfmot, learned activation ranges, `"int8"` takes these. Models that
            compute in half precision are converted in float32.
        path: The `.tflite` file to write; `<path>.json` is written beside it.
        scheme: `"int8"` (default), `"float32"`, `"float16"`, `"dynamic"` (8-bit weights, float
            activations; slower than float on CPUs), `"int16x8"` (16-bit activations; far slower
            than float on CPUs), `"w4"` (4-bit weights, unpacked when the file is loaded) or
            `"fake_quant"` (the ranges of the model's own fake-quant operations). For Keras models
            also every scheme of `quantize_aware`, such as `"w4a8"`, schemes by layer, and `"auto"`:
            8 or 4 bits for each layer, chosen for `max_bytes` or `max_drop`, with the algorithms of
            `effort="fast"` unless others are given.
        calibration: Typical inputs, for the ranges of the activations and for the proof: an
            array of shape (n, …), a dictionary of arrays, a `tf.data.Dataset`, an `.npz` file or
            any iterable of batches. 100 to 500 samples are enough; at most 256 are used, and 512
            by algorithms. Required by schemes with integer activations; without it the others are
            proven on random inputs.
        io: Type of the inputs and outputs: `"int8"` (default; stands for the scheme's own type),
            `"uint8"` or `"float32"`. Integer inputs such as token ids keep theirs.
        observer: How activation ranges are found (Keras models only): `"min_max"`, `"percentile"`,
            `"mse"`, `"octav"` or an `Observer`. Default: the scheme's own.
        algorithms: Post-training algorithms (Keras models only), by name or as objects, such as
            `["cross_layer_equalization", "bias_correction", "adaround"]`. Default: those of
            `effort`, else none.
        effort: `"fast"` or `"best"`: a choice of algorithms (Keras models only); see
            `tfcompress.quantization.post_training`. Given any of the three, tfcompress quantizes
            instead of the converter, and the file is proven against the quantized model.
        max_bytes: For `"auto"`: most bytes of the file; what is lost is made least.
        max_drop: For `"auto"`: most that may be lost on the samples (0.01 is a point): in accuracy
            where `calibration` is `(x, y)`, else in agreement with the model; bytes are made least.
        strategy: For `"auto"`: `"mixed"` (measured layer by layer), `"distribution"` (of the
            weights) or `"global"`; see `tfcompress.search.mixed_precision`.
        tolerance: How far the file may be from the model: a number (quanta for quantized outputs,
            relative for float ones) or a `Tolerance`. Default: see `Tolerance.of`.
        preprocessing: JSON-able description of what the model must be fed; kept in the sidecar.
        signature: Signature of a SavedModel. Default: `serving_default`, or the only one.
        safe_mode: Refuse files that hold Python code, such as Lambda layers, and SavedModels that
            read or write files. Defaults to True.
        fused_lstm: Make each LSTM layer of a Keras model one operator instead of unrolling it: a
            file of a tenth of the bytes, slower on CPUs, which keeps its state between invocations
            (`reset_all_variables()` clears it). Only for what TensorFlow's converter quantizes.
            Defaults to False.
        time_limit: Seconds after which the child process is killed.

    Returns:
        The `Artifact`: path, sizes, operators, float islands, sparsity and fidelity.

    Raises:
        TypeError: If `source` is not a kind of model that can be converted.
        FileNotFoundError: If `source` is a path where nothing is.
        PermissionError: If the output folder cannot be written to.
        ValueError: If `path` is the source or lies in it, the model was never built or cannot be
            traced, the scheme or signature is unknown, the source has no signatures, `tolerance` is
            invalid, calibration samples are missing or do not fit, or the file would compute with
            uninitialised variables.
        ConversionError: If the model cannot be loaded or converted, or the converter crashed or
            took too long.
        FidelityError: If the file does not compute what the model computes.

    Example:

    ```python
    artifact = tfcompress.convert(model, "model.tflite", calibration=x_train[:256])
    print(artifact)
    ```
    """
    options = ConversionOptions(
        io, observer, algorithms, effort, tolerance, preprocessing, safe_mode, time_limit
    )
    keep_ranges = scheme in ("int8", "fake_quant") and not options.own
    refuse_own_source(source, path)
    refuse_signature(source, signature)
    source = learned_form(source, safe_mode)
    # Kept until the end: with it goes the folder of what it wrote.
    given = modern(source, calibration, time_limit, safe_mode, keep_ranges)
    source, notes = given.source, list(given.notes)
    if given.learned is None:
        source, done = in_float32(source)
        notes += done
    if fused_lstm:
        _require_converter(scheme, options, given.learned is not None)
    if isinstance(scheme, str) and scheme == "auto":
        from tfcompress.search.automatic import convert_automatically

        artifact = convert_automatically(
            source,
            path,
            calibration,
            options,
            max_bytes=max_bytes,
            max_drop=max_drop,
            strategy=strategy,
        )
        return _with_notes(artifact, notes)
    if max_bytes is not None or max_drop is not None:
        raise ValueError(
            "`max_bytes` and `max_drop` are budgets of the scheme 'auto'. Received: "
            f"scheme={scheme!r}, max_bytes={max_bytes!r}, max_drop={max_drop!r}"
        )
    # `convert` is what `export` falls back on.
    from tfcompress.export.exporter import export
    from tfcompress.export.post_training import convert_quantized, is_own

    if is_own(scheme, options):
        artifact = convert_quantized(source, path, scheme, calibration, options)
        return _with_notes(artifact, notes)
    name = str(scheme)
    settings, io = get_scheme(name, io)
    if given.learned is not None:
        artifact = export(given.learned, path, io, calibration, **options.proof)
        return _with_notes(artifact, notes)
    origin = open_source(source, signature, time_limit, safe_mode)
    data = None
    if calibration is not None:
        wanted = [(spec.name, spec.shape[1:], spec.dtype) for spec in origin.inputs]
        data = calibration_samples(calibration, wanted)
    elif settings.calibrated:
        raise ValueError(
            f"The scheme {scheme!r} needs `calibration`: 100 to 500 typical inputs, as an array, a "
            "dictionary of arrays or a `tf.data.Dataset`, to find the ranges of the activations. "
            "Without data, scheme='dynamic' quantizes the weights only. Received: None"
        )
    try:
        artifact = write_artifact(
            origin, path, scheme=name, io=io, samples=data, fused_lstm=fused_lstm, **options.proof
        )
    except FidelityError as error:
        if name != "int8" or isinstance(error, NonFiniteModelError):
            raise
        hint = "with `observer='min_max'` tfcompress places the quantizers, not the converter"
        raise FidelityError(f"{error} Another way: {hint}.", error.fidelity) from error
    return _with_notes(artifact, notes)


def _require_converter(scheme: SchemeLike, options: ConversionOptions, has_ranges: bool) -> None:
    """Raise unless TensorFlow's converter finds all ranges by itself."""
    names = [name for name in SCHEMES if name not in ("int16x8", "fake_quant")]
    if scheme not in names or options.own or has_ranges:
        given = "ranges learned in training, " if has_ranges else ""
        given += "".join(f"{name}={value!r}, " for name, value in options.own.items())
        raise ValueError(
            "`fused_lstm` is for what TensorFlow's converter quantizes by itself: the schemes "
            f"{', '.join(map(repr, names))} without observer, algorithms, effort or learned "
            "ranges. Leave it out, and LSTM layers are unrolled. "
            f"Received: {given}scheme={scheme!r}"
        )


def _with_notes(artifact: Artifact, notes: Sequence[str]) -> Artifact:
    """An artifact with more notes, in its sidecar too."""
    if not notes:
        return artifact
    artifact = replace(artifact, notes=[*artifact.notes, *notes])
    artifact.save()
    return artifact


def write_artifact(
    origin: LiveModel | SavedModel | FloatFile,
    path: str | PathLike[str],
    *,
    scheme: str,
    io: str,
    samples: Mapping[str, np.ndarray] | None = None,
    source: str = "calibration",
    tolerance: Tolerance | float | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    plan_skipped: Sequence[Mapping[str, Any]] = (),
    fused_lstm: bool = False,
    time_limit: float = 600,
    scheme_name: str | None = None,
) -> Artifact:
    """Convert, inspect and verify a model, and only then put the file and its sidecar in place.

    Args:
        origin: The model, and the names and shapes of its inputs.
        path: The `.tflite` file to write.
        scheme: A key of `SCHEMES`.
        io: Type of the quantized inputs and outputs.
        samples: Calibration samples of shape (n, …) by the names of `origin.inputs`; also what
            the file is proven on. `None`: proven on random inputs.
        source: Where the samples came from, for the record.
        tolerance: See `Tolerance.of`.
        preprocessing: JSON-able description of what the model must be fed.
        plan_skipped: JSON-able rows of what was left alone, with reasons.
        fused_lstm: Whether LSTM layers of a Keras model become one operator each.
        time_limit: Seconds after which the child process is killed.
        scheme_name: What the artifact calls the scheme. Defaults to None: `scheme`.

    Returns:
        The `Artifact`.

    Raises:
        PermissionError: If the output folder cannot be written to.
        ValueError: If samples that the scheme needs are missing, a shape stays open, or the file
            would compute with uninitialised variables.
        ConversionError: If the converter failed, crashed or took too long.
        FidelityError: If the file does not compute what the model computes.

    Example:

    ```python
    inputs = [InputSpec(*entry) for entry in model_inputs(deployable)]
    origin = LiveModel(deployable, inputs, reference=trained)
    write_artifact(origin, "model.tflite", scheme="fake_quant", io="int8", samples=samples)
    ```
    """
    shapes = static_shapes(origin.inputs, samples)
    inputs = samples if samples is not None else random_samples(origin.inputs, shapes)
    with atomic_path(path) as aside:
        converted = origin.convert(
            aside,
            scheme=scheme,
            io=io,
            calibration=samples,
            samples=inputs,
            inputs=origin.inputs,
            fused_lstm=fused_lstm,
            time_limit=time_limit,
        )
        inspection = inspect_file(aside)
        refuse_variables(inspection)
        try:
            fidelity = verify(
                converted.references,
                aside,
                inputs,
                tolerance,
                scheme=scheme,
                source=RANDOM if samples is None else source,
                time_limit=time_limit,
            )
        except NonFiniteModelError:
            raise  # no layer of the file is to blame
        except FidelityError as error:
            where = origin.locate(aside, inputs)
            raise FidelityError(f"{error} {where}".strip(), error.fidelity) from error
        # Made from the file that is still aside, so that a fault in the facts replaces nothing.
        artifact = Artifact.describe(
            aside,
            scheme,
            io,
            fidelity=fidelity,
            inspection=inspection,
            input_order=converted.inputs,
            preprocessing=preprocessing,
            plan_skipped=plan_skipped,
        )
    notes = [*artifact.notes, *converted.notes]
    artifact = replace(
        artifact, path=Path(path).expanduser(), scheme=scheme_name or scheme, notes=notes
    )
    artifact.save()
    return artifact


def refuse_variables(inspection: Inspection) -> None:
    """Raise if a file computes with variables that it does not bring along.

    Args:
        inspection: What `inspect_file` found.

    Raises:
        ValueError: If the file holds variable operators.
    """
    if inspection.variables:
        shown = ", ".join(inspection.variables[:5])
        raise ValueError(
            "The file would compute with uninitialised variables, so its outputs would be garbage. "
            "The model either changes variables while it runs, or was saved without tracking "
            "them: save Keras models with `model.export(folder)`, and remove state from the "
            f"signature. Received: {len(inspection.variables)} operators, {shown}"
        )

"""Converting by tfcompress' own post-training quantization instead of the converter's."""

from __future__ import annotations

import difflib
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from tfcompress.evaluation.output_distance import output_distance
from tfcompress.export.artifact import Artifact
from tfcompress.export.conversion import SCHEMES, get_scheme
from tfcompress.export.conversion_options import ConversionOptions
from tfcompress.export.exporter import export
from tfcompress.export.sources import predict
from tfcompress.graph.flat import require_followed
from tfcompress.quantization import schemes
from tfcompress.quantization.post_training import PostTraining, quantize_post_training
from tfcompress.quantization.schemes import SchemeLike


def is_own(scheme: SchemeLike, options: ConversionOptions) -> bool:
    """Whether a conversion is done by tfcompress' own quantization.

    Args:
        scheme: What was given as `scheme`.
        options: What else was given.

    Raises:
        ValueError: If an observer or algorithms are given with a scheme that has none.
    """
    asked = [f"{name}={value!r}" for name, value in options.own.items()]
    if not isinstance(scheme, str):
        return True
    if scheme not in SCHEMES and scheme not in schemes.SCHEMES:
        known = [*SCHEMES, *sorted(set(schemes.SCHEMES) - set(SCHEMES))]
        near = difflib.get_close_matches(scheme, known, 1, 0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`scheme` must be one of {', '.join(map(repr, known))}, a `Scheme`, or schemes by "
            f"layer.{hint} Received: {scheme!r}"
        )
    if scheme not in SCHEMES:
        return True
    if asked and scheme in SCHEMES and scheme not in schemes.SCHEMES:
        raise ValueError(
            f"The scheme {scheme!r} is made by TensorFlow's converter alone: leave out "
            f"{', '.join(asked)}, or choose a scheme of integers, "
            f"{', '.join(map(repr, sorted(schemes.SCHEMES)))}."
        )
    return bool(asked) and scheme in schemes.SCHEMES


def convert_quantized(
    source: Any,
    path: str | PathLike[str],
    scheme: SchemeLike,
    calibration: Any,
    options: ConversionOptions,
) -> Artifact:
    """Quantize a Keras model by post-training algorithms and export it.

    Args:
        source: A Keras model, or a `.keras` or `.h5` file.
        path: The `.tflite` file to write.
        scheme: A scheme or schemes by layer.
        calibration: Typical inputs.
        options: What else is asked for; see `quantize_post_training`.

    Returns:
        The `Artifact`; its notes say what each algorithm did and how far the quantized model is
        from the float one on the samples.

    Raises:
        ValueError: If `source` is no Keras model, or as `quantize_post_training` raises.
    """
    get_scheme("fake_quant", options.io)
    model = keras_source(source, options.safe_mode)
    algorithms, effort = options.algorithms, options.effort
    done = quantize_post_training(
        model,
        scheme,
        calibration,
        observer=options.observer,
        algorithms=[] if algorithms is None and effort is None else algorithms,
        effort=effort,
    )
    artifact = export(done.model, path, options.io, done.samples, **options.proof)
    notes = [*(str(outcome) for outcome in done.outcomes), distance_note(model, done)]
    artifact = replace(artifact, notes=[*artifact.notes, *notes])
    artifact.save()
    return artifact


def keras_source(source: Any, safe_mode: bool = True) -> Any:
    """Return the Keras model that a source is or holds.

    Args:
        source: A Keras model, or a `.keras` or `.h5` file.
        safe_mode: Whether a file that holds Python code is refused. Defaults to True.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, whose layers are not known, the file is refused, or the
            `call` of a subclassed model cannot be traced.
    """
    import keras

    if isinstance(source, keras.Model):
        require_followed(source)
        return source
    if isinstance(source, str | PathLike) and Path(source).suffix in (".keras", ".h5", ".hdf5"):
        file = Path(source).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"There is no such model. Received: {file}")
        return keras.models.load_model(file, compile=False, safe_mode=safe_mode)
    raise ValueError(
        "Observers, algorithms, schemes by layer and weights of fewer than 8 bits need the layers "
        "of a Keras model: give the model itself or its `.keras` file. Any other source can be "
        "converted with one of the schemes 'float32', 'float16', 'dynamic', 'int8', 'int16x8' and "
        f"'w4' alone. Received: {source!r}"
    )


def distance_note(model: Any, done: PostTraining) -> str:
    """One sentence: how far the quantized model is from the float one on the samples."""
    samples = list(done.samples.values())
    distance = output_distance(predict(model, samples), predict(done.model, samples))
    return f"Against the float model on {len(samples[0])} calibration samples: {distance}."

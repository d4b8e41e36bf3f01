"""Keras 2 and quantization-aware models, in memory or in files, as what can be converted."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from absl import logging

from tfcompress.export.deployment import is_quantization_aware
from tfcompress.export.source_checks import check_size, read_header, refuse_code
from tfcompress.export.worker import default_worker

_KERAS_2 = ("1.", "2.")
_TFMOT_CLASSES = ("PruneLowMagnitude", "ClusterWeights", "QuantizeWrapper", "QuantizeAnnotate")


@dataclass(eq=False)
class Modern:
    """What stands for a model that was given.

    Args:
        source: A Keras 3 model or the path of one, or a SavedModel folder.
        learned: The model with the activation ranges that quantization-aware training learned,
            if it learned any and they are wanted.
        notes: What was done, for the artifact.
        folder: Where files were put; they last as long as this object. None if there are none.
    """

    source: Any
    learned: Any = None
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.folder is not None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def modern(
    source: Any,
    calibration: Any = None,
    time_limit: float = 600,
    safe_mode: bool = True,
    keep_ranges: bool = True,
) -> Modern:
    """Bring a Keras 2 model over to Keras 3, and tell learned ranges from the model.

    Everything else is left as it is. Files of Keras 2 are read in the child process.

    Args:
        source: Anything that `tfcompress.convert` takes.
        calibration: Samples for the quantizers that tfmot had no range for, or None.
        time_limit: Seconds that reading a file may take.
        safe_mode: Whether files that hold Python code are refused.
        keep_ranges: Whether ranges that were learned in training are wanted.

    Raises:
        ValueError: If a file is too large, or holds Python code in safe mode.
        ConversionError: If a file cannot be loaded.
    """
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        if path.exists():
            check_size(path)
        if path.is_file() and path.suffix in (".keras", ".h5", ".hdf5"):
            return _modern_file(path, calibration, time_limit, safe_mode, keep_ranges)
        return Modern(source)
    from tfcompress.interop.tf_keras_model import is_tf_keras_model

    if is_tf_keras_model(source):
        return _modern_model(source, calibration, keep_ranges)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(source, keras.Model) and is_quantization_aware(source):
        return _without_ranges(source, keep_ranges)
    return Modern(source)


def _without_ranges(model: Any, keep_ranges: bool) -> Modern:
    """A model made by `tfcompress.quantize_aware`."""
    from tfcompress.export.strip import strip

    if keep_ranges:
        return Modern(strip(model), learned=model)
    note = "The weights have their trained values; the activation ranges of the training are not in"
    return Modern(strip(model), notes=[f"{note} the file."])


def _modern_model(legacy: Any, calibration: Any, keep_ranges: bool) -> Modern:
    from tfcompress.interop.tf_keras_model import from_tf_keras, is_quantized_by_tfmot

    try:
        if keep_ranges and is_quantized_by_tfmot(legacy):
            learned = from_tf_keras(legacy, keep_ranges=True, calibration=calibration)
            return Modern(from_tf_keras(legacy), learned, _notes(learned))
        model = from_tf_keras(legacy)
        return Modern(model, notes=_notes(model))
    except ValueError as error:
        logging.info("Tracing '%s' as it is: %s", legacy.name, error)
        folder = Path(tempfile.mkdtemp(prefix="tfcompress-"))
        path = folder / "traced"
        save_traced(legacy, path)
        return Modern(path, notes=[f"Converted as Keras 2 traces it: {error}"], folder=folder)


def _modern_file(
    path: Path, calibration: Any, time_limit: float, safe_mode: bool, keep_ranges: bool
) -> Modern:
    header = read_header(path)
    if safe_mode:
        refuse_code(path, header)
    if not header.keras_version.startswith(_KERAS_2):
        if not header.is_quantization_aware:
            return Modern(path)
        import keras

        model = keras.models.load_model(path, compile=False, safe_mode=safe_mode)
        return _without_ranges(model, keep_ranges)
    if importlib.util.find_spec("tf_keras") is None:
        note = (
            f"The file was saved by Keras {header.keras_version} and read by Keras 3; "
            "`pip install tf-keras` to have it read by Keras 2."
        )
        return Modern(path, notes=[note])
    folder = Path(tempfile.mkdtemp(prefix="tfcompress-"))
    wrapped = any(name in str(header.config) for name in _TFMOT_CLASSES)
    answer = default_worker().call(
        "tfcompress.interop.modern:modernize",
        source=str(path.resolve()),
        folder=str(folder),
        wrapped=wrapped,
        safe_mode=safe_mode,
        time_limit=time_limit,
    )
    learned = None
    if keep_ranges and answer["learned"]:
        import keras

        from tfcompress.interop.range_transfer import fill_ranges

        learned = keras.models.load_model(answer["learned"], compile=False, safe_mode=True)
        if calibration is not None:
            fill_ranges(learned, calibration)
    return Modern(Path(answer["path"]), learned, answer["notes"], folder)


def modernize(source: str, folder: str, wrapped: bool, safe_mode: bool) -> dict[str, Any]:
    """In the child process: write a Keras 2 file anew for Keras 3.

    Args:
        source: A `.keras` or `.h5` file that Keras 2 wrote.
        folder: Where to write.
        wrapped: Whether tfmot's classes are needed to load it.
        safe_mode: Whether Python code in the file is refused.

    Returns:
        `path` of a `.keras` file or a SavedModel folder, `learned`, the path of a model with the
        ranges that tfmot learned or None, and `notes`.
    """
    import tf_keras

    from tfcompress.export.worker import ConversionError
    from tfcompress.interop.tf_keras_model import from_tf_keras, is_quantized_by_tfmot

    # Files in the HDF5 format have no safe mode of their own; the parent has looked into them.
    arguments = {"safe_mode": safe_mode} if source.endswith(".keras") else {}
    with _tfmot_scope() if wrapped else contextlib.nullcontext():
        try:
            legacy = tf_keras.models.load_model(source, compile=False, **arguments)
        except Exception as error:
            raise ConversionError(f"Keras 2 cannot load the file: {error}") from error
    target = Path(folder) / "model.keras"
    learned = None
    try:
        model = from_tf_keras(legacy)
        model.save(target)
        if is_quantized_by_tfmot(legacy):
            learned = from_tf_keras(legacy, keep_ranges=True)
            learned.save(Path(folder) / "learned.keras")
    except ValueError as error:
        target = Path(folder) / "traced"
        save_traced(legacy, target)
        note = f"Converted as Keras 2 traces it: {error}"
        return {"path": str(target), "learned": None, "notes": [note]}
    return {
        "path": str(target),
        "learned": None if learned is None else str(Path(folder) / "learned.keras"),
        "notes": _notes(model if learned is None else learned),
    }


def save_traced(legacy: Any, folder: Path) -> None:
    """Write a Keras 2 model as a SavedModel whose signature has the names of its inputs.

    Args:
        legacy: A built tf_keras model, of any kind.
        folder: Where to write.

    Raises:
        ValueError: If the model was never built.
    """
    import tensorflow as tf

    structure, names = _call_structure(legacy)
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for tensor, name in zip(tf.nest.flatten(structure), names, strict=True)
    ]

    @tf.function(input_signature=specs)
    def serve(*tensors: Any) -> dict[str, Any]:
        outputs = legacy(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
        return {f"output_{i}": value for i, value in enumerate(tf.nest.flatten(outputs))}

    module = tf.Module()
    module.model = legacy
    tf.saved_model.save(module, str(folder), signatures=serve)


def _call_structure(legacy: Any) -> tuple[Any, list[str]]:
    """What a Keras 2 model is called on, nested as it takes it, and the names of the inputs.

    Raises:
        ValueError: If the model was never built.
    """
    import tensorflow as tf

    if legacy.inputs:
        structure = getattr(legacy, "_nested_inputs", None)
        if structure is None:
            structure = legacy.inputs if len(legacy.inputs) > 1 else legacy.inputs[0]
        return structure, list(legacy.input_names)
    # A subclassed model knows what it was called on last.
    called = legacy.save_spec(dynamic_batch=True)
    if called is None:
        raise ValueError(
            f"The model '{legacy.name}' was never built, so its inputs are not known: call it on "
            "data first."
        )
    structure = called[0][0]
    count = len(tf.nest.flatten(structure))
    return structure, [f"input_{number}" for number in range(1, count + 1)]


@contextlib.contextmanager
def _tfmot_scope() -> Iterator[None]:
    """A scope in which tf_keras knows tfmot's classes."""
    import tensorflow_model_optimization as tfmot

    with (
        tfmot.quantization.keras.quantize_scope(),
        tfmot.sparsity.keras.prune_scope(),
        tfmot.clustering.keras.cluster_scope(),
    ):
        yield


def _notes(model: Any) -> list[str]:
    from tfcompress.interop.transfer import find_transfer

    transfer = find_transfer(model)
    notes = ["Rebuilt from Keras 2."]
    if transfer is not None:
        notes += [f"{row.layer}: {row.part} not carried over ({row.note})" for row in transfer.lost]
    return notes

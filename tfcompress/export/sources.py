"""What can be converted: models of this process and models on disk."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfcompress.export.conversion import (
    SCHEMES,
    Converted,
    InputSpec,
    convert_saved,
    describe_saved,
    static_shapes,
)
from tfcompress.export.float_file import FloatFile
from tfcompress.export.jobs import write_saved_model
from tfcompress.export.source_checks import is_saved_model
from tfcompress.export.verification import require_finite
from tfcompress.export.worker import ConversionError, default_worker
from tfcompress.graph.model_inputs import call_flat, model_inputs

_REFERENCE_BATCH = 32


@dataclass(frozen=True)
class SavedModel:
    """A model on disk.

    Args:
        path: A `.keras` or `.h5` file or a SavedModel folder.
        signature: Signature of a SavedModel.
        inputs: Its inputs.
        safe_mode: Whether code and access to files in it are refused.
    """

    path: Path
    signature: str | None
    inputs: list[InputSpec]
    safe_mode: bool = True

    def convert(self, output: Path, **settings: Any) -> Converted:
        """Convert to `output`; `settings` are those of `convert_saved`."""
        return convert_saved(
            self.path, output, signature=self.signature, safe_mode=self.safe_mode, **settings
        )

    def locate(self, path: Path, samples: Mapping[str, np.ndarray]) -> str:
        """Nothing: the layers of a model on disk are not known here."""
        return ""


@dataclass(frozen=True)
class LiveModel:
    """A Keras model of this process.

    Args:
        model: The model to convert.
        inputs: Its inputs.
        reference: The model that the file must agree with, when that is another one: for example
            the quantization-aware model that `model` was lowered from. It takes the same inputs
            and gives the same outputs, in the same order.
    """

    model: Any
    inputs: list[InputSpec]
    reference: Any = None

    def convert(self, output: Path, **settings: Any) -> Converted:
        """Convert to `output`; `settings` are those of `convert_saved`."""
        default_worker().prepare()
        # The model itself answers, so that saving and loading it is part of what is proven.
        samples = settings.pop("samples")
        given = [samples[spec.name] for spec in self.inputs]
        model = self.model if self.reference is None else self.reference
        references = predict(model, given)
        require_finite(dict(enumerate(references)), _weights_to_check(model))
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
            try:
                file = Path(folder) / "model.keras"
                self.model.save(file)
                done = convert_saved(file, output, **settings)
            except (ConversionError, NotImplementedError, ValueError, TypeError) as error:
                if not _needs_this_process(error):
                    raise
                # Not a failure yet: its code (custom layers, Lambdas) is known only here, so it is
                # traced here. What then fails is raised with this error as its context.
                logging.info("Tracing the model in this process: %s", error)
                shapes = static_shapes(settings["inputs"], settings["calibration"])
                traced = str(Path(folder) / "saved_model")
                unroll = SCHEMES[settings["scheme"]].calibrated
                fuse = settings.pop("fused_lstm", False)
                notes = write_saved_model(self.model, traced, shapes, unroll, fuse)
                done = convert_saved(traced, output, **{**settings, "inputs": None})
                done = replace(done, notes=(*notes, *done.notes))
        named = dict(zip(done.outputs, references))
        order = [spec.name for spec in self.inputs]
        return replace(done, inputs=tuple(order), references=named)

    def locate(self, path: Path, samples: Mapping[str, np.ndarray]) -> str:
        """Name the layer at which a file that failed its proof parts from the model.

        Args:
            path: The `.tflite` file.
            samples: Arrays of shape (n, …) by input name.

        Returns:
            A sentence.
        """
        from tfcompress.evaluation.layer_fidelity import fidelity

        model = self.model if self.reference is None else self.reference
        try:
            return fidelity(model, path, samples, limit=16).verdict()
        except (ConversionError, ValueError) as error:
            # This is said as part of another error, which must not be lost for it.
            return f"Its layers could not be compared: {error}"


def open_source(
    source: Any,
    signature: str | None = None,
    time_limit: float = 600,
    safe_mode: bool = True,
) -> SavedModel | LiveModel | FloatFile:
    """Look at what is to be converted.

    Args:
        source: A Keras 3 model, a `.keras` or `.h5` file of it, a SavedModel folder, or a float
            `.tflite` file.
        signature: Signature of a SavedModel. Default: `serving_default`, or the only one.
        time_limit: Seconds that loading a file may take.
        safe_mode: Whether code and access to files in a model are refused.

    Raises:
        TypeError: If `source` is none of these.
        FileNotFoundError: If there is nothing at a path.
        ValueError: If a model was never built or cannot be traced, a file has another suffix, or
            the signature is unknown.
        ConversionError: If a file cannot be loaded.
    """
    if isinstance(source, str | PathLike):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"There is no such model. Received: {path}")
        if path.is_dir() and not is_saved_model(path):
            raise ValueError(
                f"A folder must be a SavedModel, which holds a `saved_model.pb`. Received: {path}"
            )
        if path.is_file() and path.suffix == ".tflite":
            return FloatFile.open(path)
        if path.is_file() and path.suffix not in (".keras", ".h5", ".hdf5"):
            raise ValueError(
                "A model file must be `.keras` or `.h5`, or a float `.tflite`; a SavedModel is "
                f"given as its folder. Received: {path}"
            )
        described = describe_saved(
            path, signature=signature, safe_mode=safe_mode, time_limit=time_limit
        )
        return SavedModel(path, signature, described, safe_mode)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(source, keras.Model):
        from tfcompress.graph.flat import require_followed

        require_followed(source)
        return LiveModel(source, [InputSpec(*entry) for entry in model_inputs(source)])
    raise TypeError(
        "`source` must be a Keras 3 or tf_keras model, a `.keras`, `.h5` or float `.tflite` file, "
        f"or a SavedModel folder. Received: {type(source).__module__}.{type(source).__name__}"
    )


def _needs_this_process(error: Exception) -> bool:
    """Whether a model failed because only this process has its code, and it can be traced here."""
    import keras

    if keras.config.backend() != "tensorflow":
        return False
    if isinstance(error, ConversionError):
        return error.returncode is None and "cannot be loaded" in str(error)
    return "get_config" in str(error) or isinstance(error, NotImplementedError)


def _weights_to_check(model: Any) -> str:
    """Where values that are not finite come from: the first weights that hold some, or the data."""
    from keras import ops

    for variable in model.variables:
        if "float" in variable.dtype and not ops.all(ops.isfinite(variable.value)):
            name = "/".join(variable.path.split("/")[-2:])
            return f"The first weights that are not finite are '{name}'."
    return "Its weights are finite: check the samples."


def predict(model: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a Keras model in inference mode, on any backend.

    Unlike `Model.predict` it leaves no compiled function behind in the model.

    Args:
        model: A built Keras model.
        arrays: Samples of shape (n, …) in the order of the model's inputs.

    Returns:
        Arrays of shape (n, …) in the order of the model's outputs.
    """
    import keras

    fixed = model_inputs(model)[0][1][0]
    size, count = fixed or _REFERENCE_BATCH, len(arrays[0])
    rows = []
    for start in range(0, count, size):
        # A model with a fixed batch has its last one filled up with samples from the start.
        index = np.arange(start, start + size if fixed else min(start + size, count)) % count
        batch = [keras.ops.convert_to_tensor(values[index]) for values in arrays]
        outputs = keras.tree.flatten(call_flat(model, batch))
        rows.append([keras.ops.convert_to_numpy(value) for value in outputs])
    return [np.concatenate(column)[:count] for column in zip(*rows)]

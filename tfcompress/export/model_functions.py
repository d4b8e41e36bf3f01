"""A model on disk, or of this process, as a function of named tensors.

TensorFlow and Keras are imported inside the functions.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfcompress.export.flatbuffer import natural_order
from tfcompress.export.frozen_model import FrozenModel
from tfcompress.export.precision import in_float32
from tfcompress.export.source_checks import (
    is_from_tensorflow_1,
    read_saved_model,
    refuse_side_effects,
)
from tfcompress.export.worker import ConversionError

# Modules whose import registers the layers that a saved model may hold.
_REGISTERING = (
    "tfcompress.quantization",
    "tfcompress.export.convolutions",
    "tfcompress.export.deployment",
    "tfcompress.export.gather",
    "tfcompress.interop.legacy_activations",
    "tfcompress.interop.legacy_pooling",
)


@dataclass(frozen=True, eq=False)
class ModelFunction:
    """What a model computes.

    Args:
        run: Takes tensors by the names of the inputs, returns tensors by those of the outputs.
        specs: `tf.TensorSpec` of each input by name, in the order of the model.
        outputs: `{"name", "dtype"}` of each output.
        owner: The Keras model or the loaded SavedModel, which is saved together with the function.
        notes: Sentences on what was done to the model.
    """

    run: Callable[..., Any]
    specs: dict[str, Any]
    outputs: list[dict[str, str]]
    owner: Any
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """`inputs`, with None for open dimensions, and `outputs`, as JSON-able values.

        Raises:
            ValueError: If the rank of an input is not known.
        """
        return {
            "inputs": [
                {"name": name, "shape": _sizes(spec), "dtype": spec.dtype.name}
                for name, spec in self.specs.items()
            ],
            "outputs": self.outputs,
        }


def load_function(source: str, signature: str | None, safe_mode: bool) -> ModelFunction:
    """Load a model from disk.

    Args:
        source: A `.keras` or `.h5` file or a SavedModel folder.
        signature: Signature of a SavedModel; its only one or `serving_default` when `None`.
        safe_mode: Whether code and access to files in the model are refused.

    Raises:
        ValueError: If the signature is unknown, or the model is refused.
        ConversionError: If the model cannot be loaded.
    """
    stamp = max(path.stat().st_mtime_ns for path in (Path(source), *Path(source).rglob("*")))
    loaded = _load(source, stamp, safe_mode)
    if Path(source).is_dir():
        return _signature_function(loaded, signature, source)
    model, notes = in_float32(loaded)
    return replace(keras_function(model), notes=notes)


@functools.lru_cache(maxsize=1)
def _load(source: str, stamp: int, safe_mode: bool) -> Any:
    """Load a model once for a `describe` and the `convert` after it."""
    if Path(source).is_dir():
        import tensorflow as tf

        proto = read_saved_model(Path(source))
        if safe_mode:
            refuse_side_effects(proto, source)
        try:
            if is_from_tensorflow_1(proto):
                return FrozenModel(source)
            return tf.saved_model.load(source)
        except Exception as error:
            raise ConversionError(f"The SavedModel cannot be loaded: {error}") from error
    import keras

    for module in _REGISTERING:
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
    try:
        return keras.models.load_model(source, compile=False, safe_mode=safe_mode)
    except Exception as error:
        raise ConversionError(f"The Keras file cannot be loaded: {error}") from error


def _signature_function(loaded: Any, signature: str | None, source: str) -> ModelFunction:
    known = sorted(loaded.signatures)
    if signature is None:
        default = "serving_default" if "serving_default" in known else None
        signature = default or (known[0] if len(known) == 1 else None)
    if signature not in known:
        raise ValueError(
            f"The SavedModel has the signatures {known}; choose one with `signature=`. "
            f"Received: {signature!r} for {source}"
        )
    function = loaded.signatures[signature]
    outputs = [
        {"name": name, "dtype": spec.dtype.name}
        for name, spec in function.structured_outputs.items()
    ]
    return ModelFunction(function, dict(function.structured_input_signature[1]), outputs, loaded)


def keras_function(model: Any) -> ModelFunction:
    """What a Keras model computes (TensorFlow backend).

    Args:
        model: A built Keras model.
    """
    import keras
    import tensorflow as tf

    from tfcompress.graph import keras_internals
    from tfcompress.graph.model_inputs import call_flat, model_inputs

    specs = {
        name: tf.TensorSpec(shape, dtype, name=name) for name, shape, dtype in model_inputs(model)
    }

    def run(**tensors: Any) -> dict[str, Any]:
        with keras_internals.exact_additions():
            outputs = call_flat(model, list(tensors.values()))
        return dict(zip(_output_names(outputs), keras.tree.flatten(outputs), strict=True))

    functional = keras_internals.functional_of(model)
    structure = [] if functional is None else keras_internals.output_structure_of(functional)
    outputs = [
        {"name": name, "dtype": value.dtype}
        for name, value in zip(_output_names(structure), keras.tree.flatten(structure), strict=True)
    ]
    return ModelFunction(run, specs, outputs, model)


def _output_names(outputs: Any) -> list[str]:
    """Names for flat outputs: the keys of a dictionary, otherwise `output_0`, `output_1`, …"""
    import keras

    count = len(keras.tree.flatten(outputs))
    if isinstance(outputs, Mapping) and len(outputs) == count:
        names = sorted(map(str, outputs))
        # Files list outputs in natural order, which must be that of the flat outputs.
        if all(map(str.isidentifier, names)) and sorted(names, key=natural_order) == names:
            return names
    return [f"output_{index}" for index in range(count)]


def _sizes(spec: Any) -> list[int | None]:
    if spec.shape.rank is None:
        raise ValueError(
            f"The input {spec.name!r} has an unknown rank; save the model with an input signature "
            "that states its shape."
        )
    return [None if size is None else int(size) for size in spec.shape]

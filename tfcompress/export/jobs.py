"""What the child process can be asked to do. Nothing here runs in the user's own process.

TensorFlow and Keras are imported inside the functions: running a file needs neither.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.child import note
from tfcompress.export.converter_repairs import repaired
from tfcompress.export.diagnosis import SUSPECT_OPS
from tfcompress.export.flatbuffer import natural_order
from tfcompress.export.loops import Loops
from tfcompress.export.model_functions import ModelFunction, keras_function, load_function
from tfcompress.export.worker import ConversionError

# What TensorFlow and Keras import only because it is installed: two fifths of their start.
_IMPORTED_IF_THERE = ("jax", "matplotlib", "pandas", "sklearn")


@functools.lru_cache(maxsize=1)
def prepare() -> None:
    """Import TensorFlow and Keras, without the libraries that no conversion needs."""
    left_out = [name for name in _IMPORTED_IF_THERE if name not in sys.modules]
    # An entry of None makes `import` raise ImportError, as if the library were not installed.
    sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]
    try:
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
    finally:
        for name in left_out:
            del sys.modules[name]


def describe(source: str, signature: str | None = None, safe_mode: bool = True) -> dict[str, Any]:
    """Return what a model takes and gives.

    Args:
        source: A `.keras` or `.h5` file or a SavedModel folder.
        signature: Signature of a SavedModel; its only one or `serving_default` when `None`.
        safe_mode: Whether code and access to files in the model are refused.

    Returns:
        `inputs`, a list of `{"name", "shape", "dtype"}` in the order of the model with `None` for
        open dimensions, and `outputs`, a list of `{"name", "dtype"}`.
    """
    prepare()
    return load_function(source, signature, safe_mode).describe()


def convert(
    source: str,
    output: str,
    scheme: str,
    io: str,
    signature: str | None,
    shapes: dict[str, list[int]],
    calibration: str | None,
    samples: str | None,
    references: str | None,
    safe_mode: bool = True,
    fused_lstm: bool = False,
) -> dict[str, Any]:
    """Write a TFLite file, and what the float model answers to some samples.

    Args:
        source: A `.keras` or `.h5` file or a SavedModel folder.
        output: The file to write.
        scheme: See `tfcompress.export.conversion.SCHEMES`.
        io: Type of quantized inputs and outputs.
        signature: Signature of a SavedModel.
        shapes: Static shape of each input, batch included.
        calibration: `.npz` with the calibration samples of each input.
        samples: `.npz` with inputs to run through the source model, or `None`.
        references: `.npz` to write the model's answers to.
        safe_mode: Whether code and access to files in the model are refused.
        fused_lstm: Whether LSTM layers of a Keras model become one operator each.

    Returns:
        Names of the `inputs` and `outputs` in the order of the model, and `notes` on what was done
        to it.
    """
    prepare()
    import tensorflow as tf

    note(stage="loading the model")
    _settle()
    function = load_function(source, signature, safe_mode)
    static = _static_specs(function.specs, shapes)
    with tempfile.TemporaryDirectory() as folder:
        note(stage="tracing the model with a fixed batch")
        loops = Loops(function.owner, calibration is not None, fused_lstm)
        _save_static(loops.applied(function), static, folder)
        concrete = tf.saved_model.load(folder).signatures["serving_default"]
        note(suspects=_suspects(concrete))
        if samples is not None and references is not None:
            note(stage="running the model on samples")
            save_arrays(references, _answers(concrete, load_arrays(samples), static))
        note(stage=f"converting with scheme {scheme!r}")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        _configure(converter, scheme, io, static, calibration)
        try:
            content = _converted(converter)
        except Exception as error:
            hint = _hint(concrete)
            raise ConversionError(f"The TFLite converter gave up: {hint}{error}") from error
    content = repaired(content)
    if scheme == "w4":
        from tfcompress.export.weight_storage import store_weights

        content = store_weights(content, 4)
    Path(output).write_bytes(content)
    names = sorted(concrete.structured_outputs, key=natural_order)
    return {
        "inputs": list(function.specs),
        "outputs": names,
        "notes": [*function.notes, *loops.describe()],
    }


def run_file(path: str, samples: str, output: str, resolver: str) -> list[dict[str, Any]]:
    """Run a TFLite file sample by sample, as a device would.

    Args:
        path: A `.tflite` file.
        samples: `.npz` with float (or integer) inputs by name.
        output: `.npz` to write the dequantized outputs to.
        resolver: `"auto"` (XNNPACK), `"builtin"` or `"reference"`.

    Returns:
        The specifications of the outputs.
    """
    from tfcompress.evaluation.litert import LiteRTModel

    note(stage=f"running the file with the {resolver!r} kernels")
    model = LiteRTModel(path, resolver=resolver)
    answers = model.run(load_arrays(samples), resize=False)
    save_arrays(output, answers)
    return [spec.to_dict() for spec in model.outputs]


def read_tensors(path: str, samples: str, output: str, indices: list[int], resolver: str) -> None:
    """Run a TFLite file sample by sample and keep values from the middle of its graph.

    Args:
        path: A `.tflite` file.
        samples: `.npz` with float (or integer) inputs by name.
        output: `.npz` to write the tensors to, by number, shape (n, …), in their own types.
        indices: Numbers of the tensors.
        resolver: `"auto"` (XNNPACK), `"builtin"` or `"reference"`.
    """
    from tfcompress.evaluation.litert import LiteRTModel

    note(stage=f"reading tensors in the middle of the file with the {resolver!r} kernels")
    model = LiteRTModel(path, resolver=resolver, keep_tensors=True)
    values = model.read_tensors(load_arrays(samples), indices)
    save_arrays(output, {str(index): array for index, array in values.items()})


def write_saved_model(
    model: Any, folder: str, shapes: dict[str, list[int]], unroll: bool, fuse: bool = False
) -> list[str]:
    """Write a Keras model of this process as a SavedModel with a fixed batch (TensorFlow backend).

    The one function here that also runs in the parent: for models whose code only it has.

    Args:
        model: A built Keras model.
        folder: Folder to write to.
        shapes: Static shape of each input, batch included.
        unroll: Whether recurrent layers are traced step by step.
        fuse: Whether LSTM layers are traced as one operator each.

    Returns:
        Sentences on what was done to the model.
    """
    function = keras_function(model)
    loops = Loops(model, unroll, fuse)
    _save_static(loops.applied(function), _static_specs(function.specs, shapes), folder)
    return loops.describe()


@functools.lru_cache(maxsize=1)
def _settle() -> None:
    """Exempt what TensorFlow keeps for ever from the full collections that the converter forces.

    They are a quarter of the time that a small conversion takes.
    """
    import gc

    gc.freeze()


def _save_static(function: ModelFunction, static: dict[str, Any], folder: str) -> None:
    """Write a SavedModel whose only signature has fixed shapes."""
    import keras
    import tensorflow as tf

    owner, run = function.owner, function.run
    names = list(static)
    if isinstance(owner, keras.Model):
        archive = keras.export.ExportArchive()
        archive.track(owner)
        archive.add_endpoint(
            "serve",
            lambda *tensors: run(**dict(zip(names, tensors))),
            list(static.values()),
        )
        archive.write_out(folder, verbose=False)
    else:
        # Saved again even when its shapes are fixed: signatures of Keras 3 models that were saved
        # without their variables would convert into files that compute with garbage.
        module = tf.Module()
        module.owner = owner
        traced = tf.function(lambda **tensors: run(**tensors))
        tf.saved_model.save(module, folder, signatures=traced.get_concrete_function(**static))


def _static_specs(specs: dict[str, Any], shapes: dict[str, list[int]]) -> dict[str, Any]:
    import tensorflow as tf

    return {
        name: tf.TensorSpec(shapes[name], spec.dtype, name=name) for name, spec in specs.items()
    }


def _hint(concrete: Any) -> str:
    """A sentence on what LiteRT has no kernels for in a graph, empty if nothing is known."""
    import tensorflow as tf

    nodes = _nodes(concrete)
    halves = {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
    if any(node.attr["T"].type in halves for node in nodes):
        return (
            "the graph computes in float16 or bfloat16, for which LiteRT has no kernels. Give the "
            "Keras model or its `.keras` file, or save the graph of a float32 model. "
        )
    if any(node.op.startswith("LookupTable") for node in nodes):
        return (
            "the model looks words or numbers up in a table, as StringLookup, IntegerLookup and "
            "TextVectorization do, for which LiteRT has no kernels. Leave these layers out of the "
            "exported model, and give it what they return. "
        )
    return ""


def _nodes(concrete: Any) -> list[Any]:
    """The nodes of a function's graph and of all functions in it."""
    graph = concrete.graph.as_graph_def()
    return [*graph.node, *(node for body in graph.library.function for node in body.node_def)]


def _suspects(concrete: Any) -> list[dict[str, str]]:
    return [
        {"op": node.op, "name": node.name} for node in _nodes(concrete) if node.op in SUSPECT_OPS
    ]


def _batches(
    arrays: dict[str, np.ndarray], static: dict[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the samples in batches of the model's fixed size; the last is filled up."""
    count = len(next(iter(arrays.values())))
    size = next(iter(static.values())).shape[0]
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        yield {name: arrays[name][rows] for name in static}


def _answers(
    concrete: Any, arrays: dict[str, np.ndarray], static: dict[str, Any]
) -> dict[str, np.ndarray]:
    import tensorflow as tf

    count = len(next(iter(arrays.values())))
    rows = [
        {
            name: value.numpy()
            for name, value in concrete(
                **{name: tf.constant(value) for name, value in batch.items()}
            ).items()
        }
        for batch in _batches(arrays, static)
    ]
    return {
        name: np.concatenate([row[name] for row in rows])[:count]
        for name in sorted(rows[0], key=natural_order)
    }


def _converted(converter: Any) -> bytes:
    """What the converter writes, with inputs in float where nothing quantizes them."""
    import tensorflow as tf

    try:
        content = converter.convert()
    except ValueError as error:
        if "Model input is not dequantized" not in str(error):
            raise
        # It leaves such inputs in float by itself, but not in files without any operator QUANTIZE,
        # as where token ids in float are cast and look up what is quantized already.
        converter.inference_input_type = tf.float32
        content = converter.convert()
    return bytes(content)


def _configure(
    converter: Any, scheme: str, io: str, static: dict[str, Any], calibration: str | None
) -> None:
    import tensorflow as tf

    if scheme not in ("float32", "w4"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if scheme in ("fake_quant", "int8", "int16x8"):
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    # For "fake_quant" the operator set must stay what it is: naming the int8 set makes the
    # converter demand calibration data.
    ops = tf.lite.OpsSet
    if scheme == "int8":
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8]
    if scheme == "int16x8":
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            ops.TFLITE_BUILTINS,
        ]
    if calibration is not None:
        arrays = load_arrays(calibration)
        # Dictionaries, because lists would have to be in the alphabetical order of the names.
        converter.representative_dataset = lambda: _batches(arrays, static)

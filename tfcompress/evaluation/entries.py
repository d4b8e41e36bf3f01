"""One view of whatever can be compared: Keras models, artifacts, and files of either kind."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.datasets.arrays import take
from tfcompress.evaluation.sizes import Sizes, keras_sizes, tflite_sizes

if TYPE_CHECKING:
    import keras

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
PREDICT_CHUNK = 1024


class Entry(ABC):
    """Something that predicts, has a size, and can be timed.

    Attributes:
        name: Its name in the comparison.
        kind: `"keras"` or `"tflite"`.
        source: File name, or what kind of object it is.
        runtime: What runs it.
        threads: Threads of the runtime; `None` where the backend decides.
        fidelity: How faithful the file is to its Keras model, if the exporter measured it.
    """

    kind: str
    runtime: str

    def __init__(self, name: str, source: str, threads: int | None):
        self.name = name
        self.source = source
        self.threads = threads
        self.fidelity: dict[str, Any] | None = None

    def predict(
        self, x: Any, batch_size: int, advance: Callable[[str, int], None] | None = None
    ) -> np.ndarray:
        """Return float outputs for all samples.

        Args:
            x: Array of shape `(n, ...)`, or a dict or list of such.
            batch_size: Samples a step.
            advance: Called with the name and the number of samples done, now and then.

        Returns:
            Shape `(n, ...)`, float32.

        Raises:
            ValueError: If the model has several outputs, or does not take these inputs.
        """
        size = count_samples(x)
        chunk = batch_size * max(1, PREDICT_CHUNK // batch_size)
        parts = []
        for start in range(0, size, chunk):
            rows = slice(start, min(start + chunk, size))
            parts.append(self._predict(take(x, rows), batch_size))
            if advance is not None:
                advance(self.name, rows.stop - rows.start)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    @abstractmethod
    def _predict(self, x: Any, batch_size: int) -> np.ndarray: ...

    @abstractmethod
    def call(self, x: Any) -> Callable[[], Any]:
        """Return a function without arguments that runs the model once, for timing.

        Args:
            x: One sample, with its batch axis.
        """

    @abstractmethod
    def sizes(self) -> Sizes:
        """Return what it holds and how much room it takes."""

    def _single(self, outputs: Any) -> np.ndarray:
        if isinstance(outputs, (dict, list, tuple)):
            if len(outputs) != 1:
                raise ValueError(
                    f"{self.name!r} has {len(outputs)} outputs; a comparison judges one. Make a "
                    "model of the output to judge: keras.Model(model.inputs, model.outputs[i])"
                )
            outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
        return np.asarray(outputs, np.float32)


class KerasEntry(Entry):
    """A Keras model, in memory or from a file."""

    kind = "keras"

    def __init__(self, name: str, model: keras.Model, path: Path | None = None):
        import keras

        from tfcompress.quantization.twin import quantized_form

        super().__init__(name, path.name if path else "Keras model in memory", threads=None)
        self.runtime = f"Keras ({keras.config.backend()})"
        self._model = model
        # Trained with the callback `QuantizationAwareTraining`, it is judged as it was trained.
        self._runner = quantized_form(model)
        self._path = path

    def _predict(self, x: Any, batch_size: int) -> np.ndarray:
        try:
            outputs = self._runner.predict(x, batch_size=batch_size, verbose=0)
        except Exception as error:
            # Each backend has its own error for shapes, and TensorFlow's depends on what the model
            # was run on before. Keras is asked first, since it takes more than inputs declare.
            misfits = _misfits(self._runner, x)
            if not misfits:
                raise
            raise ValueError(
                f"{self.name!r} does not take these samples: {'; '.join(misfits)}. Give what the "
                "model was trained on, preprocessed alike."
            ) from error
        return self._single(outputs)

    def call(self, x: Any) -> Callable[[], Any]:
        """Return the compiled forward pass on one sample; see `Entry.call`."""
        import keras

        model = self._runner
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        backend = keras.config.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            # Keras looks at the structure of its inputs at every eager call, which costs more than
            # a small model; a concrete function is the forward pass alone.
            forward = tf.function(lambda: model(inputs, training=False)).get_concrete_function()
            return lambda: np.asarray(forward())
        if backend == "jax":
            import jax

            state = (
                [variable.value for variable in model.trainable_variables],
                [variable.value for variable in model.non_trainable_variables],
            )
            run = jax.jit(lambda t, n, x: model.stateless_call(t, n, x, training=False)[0])
            return lambda: jax.block_until_ready(run(*state, inputs))
        return lambda: keras.ops.convert_to_numpy(model(inputs, training=False))

    def sizes(self) -> Sizes:
        """Return the sizes of the model and of its file; see `Entry.sizes`."""
        return keras_sizes(self._model, self._path)


class LiteRTEntry(Entry):
    """A .tflite file, run by LiteRT."""

    kind = "tflite"
    runtime = "LiteRT"

    def __init__(self, name: str, path: Path, threads: int, artifact: Any = None):
        from tfcompress.evaluation.litert import LiteRTModel

        super().__init__(name, path.name, threads)
        self._path = path
        # An artifact knows the order of the model's inputs, which the file alone does not.
        self._model = LiteRTModel(path if artifact is None else artifact, threads=threads)
        if artifact is not None and artifact.fidelity is not None:
            self.fidelity = artifact.fidelity.to_dict()

    def _predict(self, x: Any, batch_size: int) -> np.ndarray:
        # Samples are what the float model is fed: bytes of images are numbers here, not codes.
        return self._single(self._model.run(x))

    def call(self, x: Any) -> Callable[[], Any]:
        """Return the bare invocation on one sample; see `Entry.call`."""
        from ai_edge_litert.interpreter import Interpreter

        # An interpreter of its own, so that what is timed is LiteRT and no Python around it. It
        # keeps its inputs from one invocation to the next, and its kernels take the same time
        # whatever the values are: any will do.
        interpreter = Interpreter(model_path=str(self._path), num_threads=self.threads)
        for detail in interpreter.get_input_details():
            shape = [max(int(size), 1) for size in detail["shape"]]
            interpreter.resize_tensor_input(detail["index"], [1, *shape[1:]] if shape else [])
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        return interpreter.invoke

    def sizes(self) -> Sizes:
        """Return the sizes of the file; see `Entry.sizes`."""
        return tflite_sizes(self._path)


def open_entry(name: str, source: Any, threads: int = 1) -> Entry:
    """Return a uniform view of something to compare.

    Args:
        name: Its name in the comparison.
        source: Keras model, `Artifact`, or path of a .keras, .h5 or .tflite file.
        threads: Threads for LiteRT. Defaults to 1.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated or not what its name says, or `source` is none of
            these.
    """
    if isinstance(source, (str, os.PathLike)):
        return _open_file(name, Path(source).expanduser(), threads)
    if hasattr(source, "path") and hasattr(source, "fidelity"):
        return _open_file(name, Path(source.path), threads, artifact=source)
    import keras

    if isinstance(source, keras.Model):
        if not source.built:
            raise ValueError(
                f"Entry {name!r} is a Keras model that was never built; call it on data or call "
                "`model.build(input_shape)` first."
            )
        return KerasEntry(name, source)
    raise ValueError(
        "An entry must be a Keras model, an Artifact, or the path of a .keras, .h5 or .tflite "
        f"file. Received: {name!r}: {type(source).__name__}"
    )


def _open_file(name: str, path: Path, threads: int, artifact: Any = None) -> Entry:
    if not path.exists():
        raise FileNotFoundError(f"There is no file for entry {name!r} at {path}")
    if path.is_dir():
        raise ValueError(
            f"Entry {name!r} is a folder: {path}. Turn a SavedModel into a file first: "
            f"tfcompress convert {path} -o model.tflite --scheme float32"
        )
    if path.suffix in KERAS_SUFFIXES:
        return KerasEntry(name, _load_keras(name, path), path)
    return LiteRTEntry(name, path, threads, artifact)


def _load_keras(name: str, path: Path) -> keras.Model:
    import keras

    # Keras finds the classes of instrumented models in its registry, where importing puts them.
    quantization = importlib.import_module("tfcompress.quantization")
    try:
        model = keras.models.load_model(path, compile=False)
        if path.suffix == ".keras":
            quantization.restore_ranges(model, path)
        return model
    except (ValueError, TypeError, OSError, KeyError, EOFError) as error:
        raise ValueError(
            f"Entry {name!r} cannot be read as a Keras model from {path}. It may be truncated, or "
            f"need custom classes that are not imported. ({str(error).strip().splitlines()[0]})"
        ) from error


def _misfits(model: keras.Model, x: Any) -> list[str]:
    """Return, for each input whose samples have another shape than it declares, what is wrong."""
    from tfcompress.graph.model_inputs import model_inputs

    try:
        inputs = model_inputs(model)
    except ValueError:
        # A subclassed model may keep to itself what it takes.
        return []
    arrays = x if isinstance(x, (dict, list, tuple)) else [x]
    given = arrays if isinstance(arrays, dict) else dict(zip([name for name, *_ in inputs], arrays))
    return [
        f"the input {name!r} takes {_shown(shape)}. Received: {_shown(given[name].shape)}"
        for name, shape, _ in inputs
        if name in given and not _fits(given[name].shape, shape)
    ]


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(given) == len(wanted) and all(
        size in (None, seen) for size, seen in zip(wanted[1:], given[1:])
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join(['samples', *('any' if s is None else str(s) for s in shape[1:])])})"


def count_samples(x: Any) -> int:
    """Return the length of the batch axis of an array, or of the first of several."""
    if isinstance(x, dict):
        x = next(iter(x.values()))
    elif isinstance(x, (list, tuple)):
        x = x[0]
    return len(x)

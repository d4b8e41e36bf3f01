"""Running a TFLite file as if it were a model: float arrays in, float arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
from tfcompress.export.flatbuffer_editing import exposed
from tfcompress.export.tensor_spec import TensorSpec
from tfcompress.hints import did_you_mean

_RESOLVERS = {
    "auto": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
_BATCH = 64

# From what is given for an input to what the file takes there.
_Encoder = Callable[[TensorSpec, np.ndarray], np.ndarray]


class LiteRTModel:
    """A `.tflite` file that predicts on batches.

    Quantizes float inputs with the file's own scale and dequantizes the outputs, so that it can
    stand beside a Keras model. Files with a batch of 1 are run in larger batches where the result
    is the same, one sample at a time otherwise. State that an operator keeps (a fused LSTM) is
    reset before each sample.

    A file from an unknown source can crash the process that runs it; `tfcompress.export.verify`
    runs it in a child process first.

    Args:
        source: Path of a `.tflite` file, its content, or an `Artifact`.
        threads: CPU threads. Default 1, which is what latencies should be compared at.
        resolver: Kernels: `"auto"` (XNNPACK, as deployed), `"builtin"` (without XNNPACK) or
            `"reference"` (slow, portable C++).
        keep_tensors: Whether values in the middle of the graph are kept for `read_tensors`, which
            takes more memory. With `"auto"` they become further outputs of the graph, because
            XNNPACK keeps nothing else.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, damaged or not a TFLite file, or `resolver` is unknown.
        RuntimeError: If the runtime cannot prepare the file.

    Example:

    ```python
    model = LiteRTModel("model.tflite")
    model.inputs  # (TensorSpec(name='image', shape=(1, 8, 8, 1), dtype='int8', …),)
    probabilities = model.predict(images)  # (n, 10), float32
    ```
    """

    def __init__(
        self,
        source: str | PathLike[str] | bytes | Any,
        threads: int = 1,
        resolver: str = "auto",
        keep_tensors: bool = False,
    ) -> None:
        if resolver not in _RESOLVERS:
            raise ValueError(
                f"`resolver` must be one of {', '.join(map(repr, _RESOLVERS))}. "
                f"Received: {resolver!r}"
            )
        # An Artifact is a path with facts about it; its own order of inputs is the model's.
        artifact = None if isinstance(source, str | bytes | PathLike) else source
        self.path, self._content = read_tflite(source if artifact is None else artifact.path)
        self.threads = threads
        self.resolver = resolver
        # Preserving all tensors would switch off XNNPACK.
        self._preserve = keep_tensors and resolver != "auto"
        parsed = Flatbuffer(self._content, self.path or "the given bytes")
        indices = {s.name: i for s, i in zip(parsed.inputs, parsed.input_indices)}
        specs = {spec.name: spec for spec in parsed.inputs}
        order = specs if artifact is None else [spec.name for spec in artifact.inputs]
        self.inputs = tuple(specs[name] for name in order)
        self.outputs = tuple(parsed.outputs)
        self._sources = [indices[spec.name] for spec in self.inputs]
        self._targets = parsed.output_indices
        self._stateful = parsed.stateful
        self._batched: bool | None = False if parsed.stateful else None
        if keep_tensors and resolver == "auto":
            self._content = exposed(self._content)
        self._interpreters: dict[tuple[tuple[int, ...], ...], Any] = {}
        own_shapes = tuple(spec.shape for spec in self.inputs)
        if all(size >= 0 for shape in own_shapes for size in shape):
            self._prepare(own_shapes)

    def predict(
        self, x: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]
    ) -> np.ndarray | list[np.ndarray]:
        """Run samples through the file, real numbers or the file's own codes.

        Args:
            x: Array of shape (n, …); for several inputs a dictionary by input name, or a sequence
                in the order of `inputs`. Real numbers are quantized as the file asks. An array
                that already has the integer type of a quantized input is taken as codes; where it
                holds real numbers, such as the bytes of images, use `run`.

        Returns:
            float32 array of shape (n, …), or a list of them in the order of `outputs`. Integer
            outputs without a scale, such as class indices, stay integers.

        Raises:
            ValueError: If names, shapes or types do not fit the file.
            RuntimeError: If the runtime fails.
        """
        answers = list(self._answers(x, _codes_or_quantized, resize=True).values())
        return answers[0] if len(answers) == 1 else answers

    def run(
        self,
        x: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
        resize: bool = True,
    ) -> dict[str, np.ndarray]:
        """Run real numbers through the file, whatever their type: what its model is fed.

        Args:
            x: Array of shape (n, …); for several inputs a dictionary by input name, or a sequence
                in the order of `inputs`. All of it is quantized as the file asks.
            resize: Whether larger batches than the file's own may be tried.

        Returns:
            By output name, what `predict` returns.

        Raises:
            ValueError: If names, shapes or types do not fit the file.
            RuntimeError: If the runtime fails.
        """
        return self._answers(x, _quantized, resize)

    def _answers(self, x: Any, encode: _Encoder, resize: bool) -> dict[str, np.ndarray]:
        raw = self._run_batches(self._checked(self._named(x)), resize, encode)
        return {spec.name: spec.dequantize(raw[spec.name]) for spec in self.outputs}

    def invoke_raw(
        self, codes: Mapping[str, np.ndarray], resize: bool = True
    ) -> dict[str, np.ndarray]:
        """Run arrays that already have the types of the file.

        Args:
            codes: Arrays of shape (n, …) by input name.
            resize: Whether larger batches than the file's own may be tried.

        Returns:
            Arrays of shape (n, …) in the file's types, by output name.
        """
        return self._run_batches(codes, resize, encode=lambda _, values: values)

    def _run_batches(
        self, arrays: Mapping[str, np.ndarray], resize: bool, encode: _Encoder
    ) -> dict[str, np.ndarray]:
        count = len(next(iter(arrays.values())))
        if count == 0:
            raise ValueError("There is nothing to run: the arrays hold no samples.")

        def batch(start: int, size: int) -> list[np.ndarray]:
            rows: slice | np.ndarray = slice(start, start + size)
            if start + size > count:
                # The last batch is filled up with samples from the start.
                rows = np.arange(start, start + size) % count
            parts = [(spec, arrays[spec.name][rows]) for spec in self.inputs]
            # Batch by batch, values that are made codes are still in the processor's cache.
            return [encode(spec, part) for spec, part in parts]

        own = self.inputs[0].shape[0] if self.inputs[0].shape else 1
        size = max(own, 1)
        if resize and count >= _BATCH and own in (1, -1) and self._resizable(batch(0, _BATCH)):
            size = _BATCH
        rows = [self._invoke(batch(start, size)) for start in range(0, count, size)]
        return {
            spec.name: np.concatenate([row[i] for row in rows])[:count]
            for i, spec in enumerate(self.outputs)
        }

    def read_tensors(
        self, samples: Mapping[str, np.ndarray], indices: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Run samples one by one and return values from the middle of the graph.

        Args:
            samples: Arrays of real numbers of shape (n, …) by input name.
            indices: Numbers of the tensors in the file. The model must have been opened with
                `keep_tensors=True`.

        Returns:
            By number, an array of shape (n, *shape of the tensor) in the tensor's type.
        """
        checked = self._checked(samples)
        codes = {spec.name: _quantized(spec, checked[spec.name]) for spec in self.inputs}
        interpreter = self._prepare(tuple(spec.shape for spec in self.inputs))
        rows: dict[int, list[np.ndarray]] = {index: [] for index in indices}
        for number in range(len(next(iter(codes.values())))):
            given = [codes[spec.name][number : number + 1] for spec in self.inputs]
            self._invoke(given)
            sources = dict(zip(self._sources, given, strict=True))
            for index, values in rows.items():
                # The place of an input may hold something else after a run.
                known = index in sources
                values.append(sources[index] if known else interpreter.get_tensor(index))
        return {index: np.stack(values) for index, values in rows.items()}

    def _invoke(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._prepare(tuple(values.shape for values in batch))
        if self._stateful:
            interpreter.reset_all_variables()
        for index, values in zip(self._sources, batch):
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._targets]

    def _resizable(self, batch: Sequence[np.ndarray]) -> bool:
        """Try a larger batch once, and believe it only if it gives the same answers."""
        if self._batched is None:
            self._batched = self._same_in_batches(batch)
        return self._batched

    def _same_in_batches(self, batch: Sequence[np.ndarray]) -> bool:
        try:
            many = self._invoke(batch)
        except (RuntimeError, ValueError):
            # A reshape with a fixed batch inside: one sample at a time, then.
            return False
        for row in (0, _BATCH // 2, _BATCH - 1):
            one = self._invoke([values[row : row + 1] for values in batch])
            for seen, expected in zip(many, one):
                if seen.shape != (_BATCH, *expected.shape[1:]) or len(expected) != 1:
                    return False
                exact = np.issubdtype(seen.dtype, np.integer)
                if not np.allclose(seen[row], expected[0], rtol=0 if exact else 1e-4, atol=1e-6):
                    return False
        return True

    def _prepare(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """Return an interpreter for inputs of these shapes; the last two are kept."""
        if shapes in self._interpreters:
            return self._interpreters[shapes]
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        try:
            interpreter = Interpreter(
                model_content=self._content,
                num_threads=self.threads,
                experimental_op_resolver_type=getattr(OpResolverType, _RESOLVERS[self.resolver]),
                experimental_preserve_all_tensors=self._preserve,
            )
            for index, shape, spec in zip(self._sources, shapes, self.inputs):
                if shape != spec.shape:
                    interpreter.resize_tensor_input(index, shape)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"LiteRT cannot run this file with the {self.resolver!r} kernels: {error} "
                f"Received: {self.path or f'{len(self._content)} bytes'}"
            ) from error
        if len(self._interpreters) > 1:
            self._interpreters.pop(next(iter(self._interpreters)))
        self._interpreters[shapes] = interpreter
        return interpreter

    def _named(self, x: Any) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.inputs]
        if isinstance(x, Mapping):
            for name in x:
                if name not in names:
                    hint = did_you_mean(name, names)
                    raise ValueError(f"The file has the inputs {names}.{hint} Received: {name!r}")
            missing = [name for name in names if name not in x]
            if missing:
                raise ValueError(f"The file has the inputs {names}. Missing: {missing}")
            return {name: np.asarray(x[name]) for name in names}
        if len(names) == 1:
            values = x[0] if isinstance(x, list | tuple) and len(x) == 1 else x
            return {names[0]: np.asarray(values)}
        if not isinstance(x, list | tuple) or len(x) != len(names):
            raise ValueError(
                f"The file has the inputs {names}: give a dictionary by name, or as many arrays "
                f"in that order. Received: {type(x).__name__}"
            )
        return {name: np.asarray(values) for name, values in zip(names, x)}

    def _checked(self, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        checked = {}
        counts = {name: len(values) if np.ndim(values) else -1 for name, values in samples.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"All inputs need the same number of samples. Received: {counts}")
        for spec in self.inputs:
            values = np.asarray(samples[spec.name])
            wanted = spec.shape[1:]
            fits = values.ndim == len(spec.shape) and all(
                size in (-1, given) for size, given in zip(wanted, values.shape[1:])
            )
            if not fits:
                raise ValueError(
                    f"The input {spec.name!r} takes (samples, {', '.join(map(str, wanted))}). "
                    f"Received: shape {values.shape}"
                )
            if values.dtype.kind not in "fiub":
                raise ValueError(
                    f"The input {spec.name!r} takes numbers. Received: dtype {values.dtype}"
                )
            checked[spec.name] = values
        return checked

    def __repr__(self) -> str:
        name = Path(self.path).name if self.path else f"{len(self._content)} bytes"
        return f"LiteRTModel({name}, threads={self.threads}, resolver={self.resolver!r})"


def _quantized(spec: TensorSpec, values: np.ndarray) -> np.ndarray:
    """Return real numbers as an input takes them."""
    return spec.quantize(values) if spec.quantized else values.astype(spec.dtype, copy=False)


def _codes_or_quantized(spec: TensorSpec, values: np.ndarray) -> np.ndarray:
    """Return values as an input takes them; what has its type already is taken as codes."""
    return values if str(values.dtype) == spec.dtype else _quantized(spec, values)

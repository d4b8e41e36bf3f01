"""Whether TensorFlow Lite for Microcontrollers runs a file, in how much memory, and how exactly."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.child import note
from tfcompress.export.conversion import InputSpec
from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
from tfcompress.export.inspection import inspect_file
from tfcompress.export.verification import random_samples
from tfcompress.export.worker import default_worker

# Too small an arena crashes the interpreter; what it really used is read afterwards.
_LEAST_ARENA = 16 << 20
_SAMPLES = 16

_ARENA = re.compile(r"Arena allocation total (\d+) bytes")
_MISSING = re.compile(r"Didn't find op for builtin opcode '(\w+)'")


@dataclass(frozen=True)
class MicrocontrollerCheck:
    """What TensorFlow Lite for Microcontrollers makes of a file; prints as a few lines.

    Args:
        path: The file.
        runs: Whether it can be run.
        problem: Why it cannot, empty otherwise.
        missing: Operators that the interpreter has no kernel for.
        arena_bytes: Working memory that it needs beside the file, or None where it cannot run.
        compared: Samples on which its outputs were compared with LiteRT's reference kernels; 0
            where these cannot run the file.
        largest_difference: Largest difference of an output, in codes for integer outputs.
        differing: Share of the outputs that differ.
    """

    path: str
    runs: bool
    problem: str = ""
    missing: tuple[str, ...] = ()
    arena_bytes: int | None = None
    compared: int = 0
    largest_difference: float = 0.0
    differing: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether every output was that of LiteRT's reference kernels, bit by bit."""
        return self.compared > 0 and self.differing == 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {**asdict(self), "missing": list(self.missing), "exact": self.exact}

    def __str__(self) -> str:
        if not self.runs:
            named = f"; no kernel for {', '.join(self.missing)}" if self.missing else ""
            return f"TFLite Micro: cannot run the file{named}\n  {self.problem}"
        lines = [f"TFLite Micro: runs in an arena of {self.arena_bytes:,} bytes"]
        if self.exact:
            lines.append(f"  equal to the reference kernels on {self.compared} samples, bit by bit")
        elif self.compared:
            lines.append(
                f"  {self.differing:.2%} of the outputs differ from the reference kernels, by up "
                f"to {self.largest_difference:g}"
            )
        else:
            lines.append("  not compared: LiteRT's reference kernels cannot run the file")
        return "\n".join(lines)


def check_tflm(
    path: str | PathLike[str],
    samples: Mapping[str, np.ndarray] | None = None,
    time_limit: float = 120,
) -> MicrocontrollerCheck:
    """Run a file with TensorFlow Lite for Microcontrollers, in a child process.

    Args:
        path: A `.tflite` file.
        samples: Arrays of shape (n, …) by input name, of which the first 16 are used. Defaults to
            None: random inputs.
        time_limit: Seconds after which the child process is killed.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TFLite file, or the package tflite-micro is not installed.
        ConversionError: If the interpreter crashed or took too long.

    Example:

    ```python
    print(tfcompress.export.check_tflm("model.tflite"))
    ```
    """
    inspect_file(path)
    if importlib.util.find_spec("tflite_micro") is None:
        raise ValueError(
            "Checking a file for microcontrollers needs tflite-micro, which is not installed: "
            "`pip install --pre tflite-micro` (Linux on x86-64), or `pip install --pre "
            "tfcompress[tflm]`. "
            f"Received: {path}"
        )
    source = str(Path(path).expanduser().resolve())
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        given = None
        if samples is not None:
            given = str(Path(folder) / "samples.npz")
            save_arrays(given, {name: values[:_SAMPLES] for name, values in samples.items()})
        found = default_worker().call(
            "tfcompress.export.microcontroller:run",
            path=source,
            samples=given,
            time_limit=time_limit,
        )
    return MicrocontrollerCheck(path=str(path), **{**found, "missing": tuple(found["missing"])})


def run(path: str, samples: str | None) -> dict[str, Any]:
    """In the child process: run a file, and LiteRT's reference kernels beside it.

    Args:
        path: A `.tflite` file.
        samples: `.npz` with inputs by name, or None for random ones.

    Returns:
        The fields of a `MicrocontrollerCheck`.
    """
    from tflite_micro.python.tflite_micro import runtime

    note(stage="running the file with TFLite Micro")
    content = Path(path).read_bytes()
    reference, prepared = _reference(path)
    outputs = len(reference.get_output_details())
    arrays = None if samples is None else load_arrays(samples)
    inputs = _inputs(path, reference.get_input_details(), arrays)
    with tempfile.TemporaryFile() as log:
        try:
            with _errors_to(log):
                micro = runtime.Interpreter.from_bytes(
                    content, arena_size=max(_LEAST_ARENA, 10 * len(content))
                )
                seen = [_answer(micro, batch, outputs) for batch in inputs]
                micro.print_allocations()
        except RuntimeError as error:
            text = _text(log)
            missing = sorted(set(_MISSING.findall(text)))
            lines = [line for line in text.splitlines() if line and "INFO" not in line]
            problem = " ".join([str(error), *lines[:3]])
            return {"runs": False, "problem": problem, "missing": missing}
        arena = _ARENA.search(_text(log))
    found = {
        "runs": True,
        "missing": [],
        "arena_bytes": int(arena[1]) if arena else None,
    }
    if not prepared:
        return found
    note(stage="running the file with LiteRT's reference kernels")
    pairs = [
        (left.astype(np.float64), right.astype(np.float64))
        for batch, answers in zip(inputs, seen, strict=True)
        for left, right in zip(_reference_answer(reference, batch), answers, strict=True)
    ]
    gaps = np.concatenate([np.abs(left - right).ravel() for left, right in pairs])
    return {
        **found,
        "compared": len(inputs),
        "largest_difference": float(gaps.max(initial=0.0)),
        "differing": float(np.mean(gaps > 0)) if gaps.size else 0.0,
    }


def _inputs(
    path: str, details: list[Any], arrays: Mapping[str, np.ndarray] | None
) -> list[list[np.ndarray]]:
    """Encoded inputs of each batch, in the order of the graph."""
    facts = Flatbuffer(read_tflite(path)[1], path)
    known = dict(zip(facts.input_indices, facts.inputs, strict=True))
    specs = [known[detail["index"]] for detail in details]
    if arrays is None:
        inputs = [InputSpec(spec.name, spec.shape, spec.dtype) for spec in specs]
        arrays = random_samples(inputs, {spec.name: list(spec.shape) for spec in specs})
    count, size = len(next(iter(arrays.values()))), specs[0].shape[0]
    batches = []
    for start in range(0, min(count, _SAMPLES), size):
        rows = np.arange(start, start + size) % count
        given = [(spec, arrays[spec.name][rows]) for spec in specs]
        batches.append(
            [
                values if str(values.dtype) == spec.dtype else spec.quantize(values)
                for spec, values in given
            ]
        )
    return batches


def _answer(micro: Any, batch: list[np.ndarray], outputs: int) -> list[np.ndarray]:
    micro.reset()
    for position, values in enumerate(batch):
        micro.set_input(np.ascontiguousarray(values), position)
    micro.invoke()
    return [np.array(micro.get_output(position)) for position in range(outputs)]


def _reference(path: str) -> tuple[Any, bool]:
    """LiteRT with its reference kernels, and whether they can run the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reference = Interpreter(
        model_path=path, num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    try:
        reference.allocate_tensors()
    except RuntimeError:
        # An operator without a reference kernel: the check then reports that nothing was compared.
        return reference, False
    return reference, True


def _reference_answer(reference: Any, batch: list[np.ndarray]) -> list[np.ndarray]:
    reference.reset_all_variables()
    for detail, values in zip(reference.get_input_details(), batch, strict=True):
        reference.set_tensor(detail["index"], values)
    reference.invoke()
    return [reference.get_tensor(detail["index"]) for detail in reference.get_output_details()]


@contextmanager
def _errors_to(file: Any) -> Iterator[None]:
    """Send what the process prints to standard error, also from C++, into a file."""
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    return text

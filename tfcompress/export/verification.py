"""Proof that a TFLite file computes what the model computes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.conversion import InputSpec
from tfcompress.export.inspection import inspect_file
from tfcompress.export.tolerance import Tolerance
from tfcompress.export.worker import ConversionError, Worker, default_worker

_REFERENCE_SECONDS = 5.0
_REFERENCE_SLOWDOWN = 40.0


class FidelityError(ValueError):
    """A file computes something else than the model it was made from.

    Args:
        message: What differs, and by how much.
        fidelity: All measured figures, or `None` when there was nothing to compare with.
    """

    def __init__(self, message: str, fidelity: Fidelity | None = None) -> None:
        super().__init__(message)
        self.fidelity = fidelity


class NonFiniteModelError(FidelityError):
    """The model itself answers with NaN or infinity, so nothing can be said of a file of it."""


@dataclass(frozen=True)
class Fidelity:
    """How close a file is to its model.

    One quantum is one step of an output's scale. Figures are over all samples and outputs, with
    the kernels that LiteRT uses by default (XNNPACK).

    Args:
        max_quanta: Largest difference in quanta; `None` when every output is a true float.
        tail_quanta: Largest difference but for the 0.5 % of outputs that differ most; `None`
            likewise.
        mean_quanta: Mean difference in quanta; `None` likewise.
        off_fraction: Share of the quantized outputs that differ by more than half a quantum.
        max_relative: Largest difference of a true float output, relative to the largest reference
            value; `None` when every output is quantized.
        sqnr: Signal-to-quantization-noise ratio in dB; `None` without noise or signal.
        agreement: Share of samples with the same arg-max, over outputs with more than one entry
            in their last dimension; `None` when there is no such output.
        samples: Number of samples.
        source: Where they came from: `"calibration"`, `"given"` or `"random within the input
            range"`.
        kernels: Per set of kernels, `"xnnpack"` and `"reference"`, its `max_quanta`,
            `max_relative` and `samples`, or under `"skipped"` the reason why it did not run.
    """

    max_quanta: float | None
    tail_quanta: float | None
    mean_quanta: float | None
    off_fraction: float | None
    max_relative: float | None
    sqnr: float | None
    agreement: float | None
    samples: int
    source: str
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Fidelity:
        """Rebuild what `to_dict` wrote."""
        return cls(**fields)

    def __str__(self) -> str:
        parts = []
        if self.max_quanta is not None:
            parts.append(
                f"max {self.max_quanta:.3g} quanta, mean {self.mean_quanta:.3g}, "
                f"{self.off_fraction:.1%} of the outputs off"
            )
        if self.max_relative is not None:
            parts.append(f"max relative difference {self.max_relative:.2g}")
        if self.sqnr is not None:
            parts.append(f"SQNR {self.sqnr:.1f} dB")
        if self.agreement is not None:
            parts.append(f"arg-max agreement {self.agreement:.2%}")
        skipped = [
            f"{name} kernels not run: {facts['skipped']}"
            for name, facts in self.kernels.items()
            if "skipped" in facts
        ]
        return "; ".join([*parts, f"{self.samples} samples ({self.source})", *skipped])


def verify(
    reference_outputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
    path: str | PathLike[str],
    samples: Mapping[str, np.ndarray],
    tolerance: Tolerance | float | None = None,
    *,
    scheme: str = "fake_quant",
    source: str = "given",
    time_limit: float = 600,
    worker: Worker | None = None,
) -> Fidelity:
    """Compare a file with what its model answered; runs in the child process.

    The file is run with LiteRT's default kernels on all samples and with the reference kernels on
    up to 32 of them; the latter may be one quantum further off, which is how much the two differ.

    Args:
        reference_outputs: The model's answers, float, batch first: an array, a sequence in the
            order of the model's outputs, or a dictionary by output name.
        path: The `.tflite` file.
        samples: The inputs, float or integer, batch first, by input name.
        tolerance: See `Tolerance.of`; the default depends on `scheme`.
        scheme: The scheme that the file was converted with.
        source: Where the samples came from, for the record.
        time_limit: Seconds after which the child process is killed.
        worker: The child process; by default the one that everybody shares.

    Returns:
        The measured figures.

    Raises:
        FidelityError: If outputs are not finite, or differ by more than the tolerance.
        ValueError: If `tolerance` is invalid, or the references do not belong to the file.
        ConversionError: If the file cannot be run, or crashed the child process.

    Example:

    ```python
    fidelity = verify(model.predict(x), "model.tflite", {"image": x}, tolerance=2)
    fidelity.max_quanta
    ```
    """
    limits = Tolerance.of(tolerance, scheme)
    child = worker or default_worker()
    inspection = inspect_file(path)
    steps = inspection.output_steps
    references = _named(reference_outputs, [spec.name for spec in inspection.outputs])
    require_finite(references)
    started = time.monotonic()
    answers = _run(child, path, samples, "auto", time_limit)
    seconds = time.monotonic() - started
    fidelity = _compare(references, answers, steps, source)
    kernels = {"xnnpack": _kernel_facts(fidelity)}
    portable = None
    try:
        count = len(next(iter(samples.values())))
        affordable = int(_REFERENCE_SECONDS / _REFERENCE_SLOWDOWN / max(seconds / count, 1e-6))
        few = min(count, max(1, min(affordable, 32)))
        head = {name: values[:few] for name, values in samples.items()}
        answers = _run(child, path, head, "reference", time_limit)
        head_references = {name: values[:few] for name, values in references.items()}
        portable = _compare(head_references, answers, steps, source)
        kernels["reference"] = _kernel_facts(portable)
    except ConversionError as error:
        # Some operators (TILE v3) have no reference kernel; the file runs without it.
        kernels["reference"] = {"skipped": str(error)}
    fidelity = Fidelity(**{**asdict(fidelity), "kernels": kernels})
    _judge(fidelity, limits, "XNNPACK", fidelity)
    if portable is not None:
        _judge(portable, limits, "reference", fidelity, slack=1)
    return fidelity


def require_finite(
    references: Mapping[Any, np.ndarray], advice: str = "Check its weights and the samples."
) -> None:
    """Raise if a model's own answers leave nothing to compare a file with.

    Args:
        references: The answers, by the name or number of the output.
        advice: A sentence on where to look.

    Raises:
        NonFiniteModelError: If one of them holds NaN or infinity.
    """
    for name, values in references.items():
        if not np.all(np.isfinite(values)):
            raise NonFiniteModelError(
                f"The model itself answers with NaN or infinity (output {name!r}), so there is "
                f"nothing to compare the file with. {advice}"
            )


def random_samples(
    inputs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], count: int = 32
) -> dict[str, np.ndarray]:
    """Make inputs up, for models that come without data.

    Args:
        inputs: Inputs of the model.
        shapes: Shape of each, batch included.
        count: Number of samples.

    Returns:
        Arrays of shape (count, …): uniform in [0, 1) for floats, 0 to 255 for 8-bit codes, 0 and
        1 for wider integers, which may be indices into tables of unknown size.
    """
    generator = np.random.default_rng(0)
    samples = {}
    for spec in inputs:
        shape = (count, *shapes[spec.name][1:])
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            samples[spec.name] = generator.random(shape, np.float32).astype(dtype)
        else:
            high = 256 if dtype == np.uint8 else 128 if dtype == np.int8 else 2
            samples[spec.name] = generator.integers(0, high, shape).astype(dtype)
    return samples


def _named(outputs: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    if isinstance(outputs, Mapping):
        named = dict(outputs)
    elif isinstance(outputs, list | tuple):
        named = dict(zip(names, outputs)) if len(outputs) == len(names) else {}
    else:
        named = {names[0]: outputs} if len(names) == 1 else {}
    if sorted(named) != sorted(names):
        given = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            f"The file has the outputs {list(names)}; the references must be one array for each. "
            f"Received: {given}"
        )
    return {name: np.asarray(named[name]) for name in names}


def _run(
    worker: Worker,
    path: str | PathLike[str],
    samples: Mapping[str, np.ndarray],
    resolver: str,
    time_limit: float,
) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        given, taken = Path(folder) / "samples.npz", Path(folder) / "outputs.npz"
        save_arrays(given, samples)
        worker.call(
            "tfcompress.export.jobs:run_file",
            path=str(Path(path).resolve()),
            samples=str(given),
            output=str(taken),
            resolver=resolver,
            time_limit=time_limit,
        )
        return load_arrays(taken)


def _compare(
    references: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    steps: Mapping[str, float | None],
    source: str,
) -> Fidelity:
    quanta, relative, noise, signal, agreed = [], [], 0.0, 0.0, []
    for name, expected in references.items():
        seen = answers[name].astype(np.float64)
        expected = expected.astype(np.float64)
        if seen.shape != expected.shape:
            raise ValueError(
                f"The output {name!r} of the file has shape {seen.shape}, the model's "
                f"{expected.shape}."
            )
        bad = ~np.isfinite(seen)
        if bad.any():
            raise FidelityError(
                f"The file computes NaN or infinity in output {name!r} ({bad.mean():.1%} of it) "
                "where the model does not. Most often it holds uninitialised variables, or a "
                "sparse encoding that the kernels do not support."
            )
        difference = np.abs(seen - expected)
        step = steps[name]
        if step is not None:
            quanta.append(difference.ravel() / step)
        else:
            peak = np.abs(expected).max(initial=0.0)
            relative.append(float(difference.max(initial=0.0) / peak) if peak else 0.0)
        noise += float(np.square(difference).sum())
        signal += float(np.square(expected - expected.mean(axis=0)).sum())
        if expected.ndim > 1 and expected.shape[-1] > 1:
            agreed.append((seen.argmax(-1) == expected.argmax(-1)).ravel())
    units = np.concatenate(quanta) if quanta else None
    return Fidelity(
        max_quanta=None if units is None else float(units.max()),
        tail_quanta=None if units is None else float(np.quantile(units, 0.995)),
        mean_quanta=None if units is None else float(units.mean()),
        off_fraction=None if units is None else float((units > 0.5).mean()),
        max_relative=max(relative, default=None),
        sqnr=float(10 * np.log10(signal / noise)) if noise and signal else None,
        agreement=float(np.concatenate(agreed).mean()) if agreed else None,
        samples=len(next(iter(references.values()))),
        source=source,
    )


def _kernel_facts(fidelity: Fidelity) -> dict[str, Any]:
    return {
        "max_quanta": fidelity.max_quanta,
        "max_relative": fidelity.max_relative,
        "samples": fidelity.samples,
    }


def _exceeds(measured: float | None, limit: float | None, slack: float) -> bool:
    return measured is not None and limit is not None and measured > limit + slack


def _clear(measured: Fidelity, limits: Tolerance, slack: float) -> bool:
    """Whether the signal stands out from the noise as the limits ask, less `slack` in dB."""
    if limits.min_sqnr is None:
        return False
    return measured.sqnr is None or measured.sqnr >= limits.min_sqnr - slack


def _judge(
    measured: Fidelity, limits: Tolerance, kernels: str, whole: Fidelity, slack: float = 0
) -> None:
    """Raise if the figures of one set of kernels are beyond the limits.

    The two sets differ from each other by one quantum in about every tenth output, which is the
    `slack` of the slow ones: they round twice. Through a deep network that is up to 6 dB of noise.
    """
    fault = None
    quieter = 6.0 * slack
    # References are float32: a difference of exactly 4 quanta may read 4.00001.
    slack += 1e-2
    if _exceeds(measured.max_quanta, limits.max_quanta, slack):
        fault = f"differs by {measured.max_quanta:.4g} quanta, allowed are {limits.max_quanta:g}"
    elif _exceeds(measured.tail_quanta, limits.tail_quanta, slack) and not _clear(
        measured, limits, quieter
    ):
        fault = (
            f"differs by {measured.tail_quanta:.4g} quanta in more than 0.5 % of the outputs, "
            f"allowed are {limits.tail_quanta:g}"
        )
    elif (
        limits.max_relative is not None
        and measured.max_relative is not None
        and measured.max_relative > limits.max_relative
    ):
        fault = (
            f"differs by {measured.max_relative:.3g} of the largest value, allowed is "
            f"{limits.max_relative:g}"
        )
    elif (
        limits.tail_quanta is None
        and limits.min_sqnr is not None
        and measured.sqnr is not None
        and measured.sqnr < limits.min_sqnr
        and (measured.max_quanta is None or measured.max_quanta > 4)
    ):
        fault = f"has more noise than signal: {measured.sqnr:.1f} dB SQNR"
    if fault is not None:
        raise FidelityError(
            f"The file does not compute what the model computes: with the {kernels} kernels it "
            f"{fault} ({whole}). Pass a larger `tolerance` to accept it.",
            whole,
        )

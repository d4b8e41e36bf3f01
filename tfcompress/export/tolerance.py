"""How far a file may be from its model."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from its model.

    Args:
        max_quanta: Largest difference of a quantized output, in quanta (steps of its scale).
        tail_quanta: The same for all but the 0.5 % of outputs that differ most. Not applied where
            the signal-to-quantization-noise ratio reaches `min_sqnr`.
        max_relative: Largest difference of a float output, relative to the largest reference
            value.
        min_sqnr: Least signal-to-quantization-noise ratio in dB, over all outputs. At 0 dB a
            constant would be as good. Not applied where the noise is within 4 quanta, or within
            `tail_quanta`.

    Raises:
        ValueError: If a limit is no number, or a difference below 0.
    """

    max_quanta: float | None = None
    tail_quanta: float | None = None
    max_relative: float | None = None
    min_sqnr: float | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            lowest = -math.inf if limit.name == "min_sqnr" else 0.0
            _check_limit(f"`Tolerance.{limit.name}`", getattr(self, limit.name), lowest)

    @classmethod
    def of(cls, value: Tolerance | float | None, scheme: str) -> Tolerance:
        """Return the tolerance that a number, or nothing, stands for.

        A number is in quanta for quantized outputs and relative for float outputs.

        * `"fake_quant"`: 4 quanta, since the file repeats the model's own rounding: 1 an
          operator, 2 to 4 on residual chains, 1 for a whole small network. 0.5 % of the outputs
          may differ by up to 64: a steep softmax widens a single quantum of its input that much.
          In a deep network every off-by-one moves what is computed from it, so more may differ as
          long as the noise stays 25 dB below the signal.
        * `"float32"`: 1e-4 of the largest value, which is reordered float arithmetic.
        * post-training schemes: 0 dB. They differ from the float model by design, and how far
          they may is the user's decision; only garbage is refused.

        Raises:
            ValueError: If `value` is neither a `Tolerance` nor a number of at least 0.
        """
        if isinstance(value, Tolerance):
            return value
        _check_limit("`tolerance`", value, 0.0)
        if value is not None:
            return cls(max_quanta=float(value), max_relative=float(value))
        if scheme == "fake_quant":
            return cls(max_quanta=64.0, tail_quanta=4.0, max_relative=0.05, min_sqnr=25.0)
        return cls(max_relative=1e-4) if scheme == "float32" else cls(min_sqnr=0.0)


def _check_limit(name: str, value: Any, lowest: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not float(value) >= lowest:  # NaN is no limit either
        least = "" if math.isinf(lowest) else f" of at least {lowest:g}"
        kinds = ", a `Tolerance` or None" if name == "`tolerance`" else " or None"
        raise ValueError(f"{name} must be a number{least}{kinds}. Received: {value!r}")

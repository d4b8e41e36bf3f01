"""What a conversion is asked for, beside the model, the samples and the scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfcompress.export.tolerance import Tolerance

if TYPE_CHECKING:
    from tfcompress.quantization.observers import Observer
    from tfcompress.quantization.post_training import AlgorithmLike


@dataclass(frozen=True, eq=False)
class ConversionOptions:
    """What `tfcompress.convert` was given, for the ways in which it converts.

    Args:
        io: Type of the inputs and outputs.
        observer: How activation ranges are found; None for the scheme's own way.
        algorithms: Post-training algorithms; None for those of `effort`.
        effort: `"fast"`, `"best"` or None.
        tolerance: How far the file may be from the model; None for the default.
        preprocessing: JSON-able description of what the model must be fed.
        safe_mode: Whether files that hold Python code are refused.
        time_limit: Seconds after which the child process is killed.

    Raises:
        ValueError: If `tolerance` is invalid.
    """

    io: str = "int8"
    observer: str | Mapping[str, Any] | Observer | None = None
    algorithms: Sequence[AlgorithmLike] | None = None
    effort: str | None = None
    tolerance: Tolerance | float | None = None
    preprocessing: Mapping[str, Any] | None = None
    safe_mode: bool = True
    time_limit: float = 600

    def __post_init__(self) -> None:
        Tolerance.of(self.tolerance, "int8")  # what is no tolerance is refused before any work

    @property
    def proof(self) -> dict[str, Any]:
        """The arguments that `export` and `write_artifact` have in common."""
        return {
            "tolerance": self.tolerance,
            "preprocessing": self.preprocessing,
            "time_limit": self.time_limit,
        }

    @property
    def own(self) -> dict[str, Any]:
        """What was asked of tfcompress' own quantization, by argument."""
        found = {
            "observer": self.observer, "algorithms": self.algorithms, "effort": self.effort
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

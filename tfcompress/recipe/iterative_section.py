"""The section of a recipe that repeats pruning and quantization in rounds."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tfcompress.recipe.section import Positive, Section, given, listed

TARGETS = ("parameters", "bytes", "gzip_bytes")


class IterativeSection(Section):
    """Rounds of prune → fine-tune → quantize → measure, until a target is met.

    Each round takes the same share of what is left, so that the last one reaches the sparsity of
    the `prune` section, or the goal of the `shrink` section; it trains as these and the `quantize`
    section say, and writes a file. The rounds end when a file has all targets, or when one loses
    more than `max_drop`; the result is the last round that did not (Han et al. 2015, "Learning both
    Weights and Connections for Efficient Neural Networks", section 3.4).

    Args:
        rounds: Most rounds.
        max_drop: Most that a round's file may lose against the float model, on the validation
            samples: accuracy (0.01 is one point), or mean squared error gained for a regression.
            `None` for no limit.
        parameters: Target: at most so many weights of the file that are not zero.
        bytes: Target: size of the file. Zeros do not make a file smaller, fewer channels do.
        gzip_bytes: Target: size of the file after gzip.
    """

    rounds: Positive = 5
    max_drop: Annotated[float, Field(ge=0)] | None = None
    parameters: Positive | None = None
    bytes: Positive | None = None
    gzip_bytes: Positive | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.max_drop is None and not self.targets:
            raise ValueError(f"at least one of `max_drop` and the targets {listed(TARGETS)}")
        return self

    @property
    def targets(self) -> dict[str, int]:
        """The targets that are given."""
        return given(self, TARGETS)

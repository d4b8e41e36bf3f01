"""The sections of a recipe that make the float model smaller: fewer layers, fewer channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tfcompress.recipe.section import Moment, Patterns, Positive, Share, check_one, given
from tfcompress.recipe.training_sections import FitSection

# A share of what there is, or a number.
Amount = Annotated[int | float, Field(gt=0)]

_TARGETS = ("n", "parameters", "macs")
_GOALS = ("macs", "parameters", "bytes", "sparsity")


class RemoveLayersSection(FitSection):
    """Removal of the least important blocks or layers, then training; see `remove_layers`.

    Exactly one of `n`, `parameters` and `macs`.

    Args:
        n: How many blocks or layers to remove.
        parameters: What may be left: up to 1.0 a share of the weights, or a number.
        macs: What may be left of the multiplications, likewise.
        criterion: `cosine` (of what a block reads and makes) or `accuracy` (lost without it).
        units: `blocks`, `layers`, or null for residual blocks where there are some, else layers.
        samples: Validation samples (training samples where there are none) to measure on.
        exclude: Blocks or layers that stay.
    """

    epochs: Positive = 5
    n: Positive | None = None
    parameters: Amount | None = None
    macs: Amount | None = None
    criterion: Literal["cosine", "accuracy"] = "cosine"
    units: Literal["blocks", "layers"] | None = None
    samples: Positive = 256
    exclude: Patterns = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        check_one(self, _TARGETS)
        return self

    @property
    def target(self) -> dict[str, Any]:
        """The target by its name."""
        return given(self, _TARGETS)


class ShrinkSection(FitSection):
    """Removal of channels while training; see `callbacks.StructuredPruning` and `shrink`.

    Exactly one of `macs`, `parameters`, `bytes` and `sparsity`.

    Args:
        macs: What may be left of the multiplications: up to 1.0 a share, or a number.
        parameters: What may be left of the parameters, likewise.
        bytes: What may be left of the bytes of the weights, likewise.
        sparsity: Share of the channels to remove.
        criterion: `l1`, `l2`, `batchnorm_scale`, `taylor`, `apoz`, `mean_activation`, `random` or a
            criterion's config.
        schedule: How the share that is gone rises: `polynomial`, `cosine`, `constant`.
        begin: Step, or share of the stage, at which pruning starts.
        end: Step, or share of the stage, at which the goal is reached.
        round_to: The channels left in a layer are a multiple of this.
        include: Only channels of these layers.
        exclude: Layers that keep their channels.
    """

    epochs: Positive = 5
    macs: Amount | None = None
    parameters: Amount | None = None
    bytes: Amount | None = None
    sparsity: Share | None = None
    criterion: str | dict[str, Any] = "l1"
    schedule: str | dict[str, Any] = "polynomial"
    begin: Moment = 0.0
    end: Moment = 0.6
    round_to: Positive = 8
    include: Patterns = None
    exclude: Patterns = None

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        check_one(self, _GOALS)
        return self

    @property
    def goal(self) -> tuple[str, int | float]:
        """Name and amount of the goal."""
        return next(iter(given(self, _GOALS).items()))

    @property
    def share_left(self) -> float | None:
        """What is left as a share; `None` for a goal that is a number."""
        name, amount = self.goal
        if name == "sparsity":
            return 1.0 - amount
        return amount if isinstance(amount, float) and amount <= 1 else None

    def leaving(self, share: float) -> ShrinkSection:
        """Return the same section with another share that is left."""
        name, _ = self.goal
        return self.model_copy(update={name: 1.0 - share if name == "sparsity" else share})

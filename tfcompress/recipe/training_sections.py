"""The sections of a recipe that train: the float model, pruning, quantization."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from tfcompress.recipe.scheme_settings import SchemeSettings, SchemeValue
from tfcompress.recipe.section import (
    LearningRate,
    Moment,
    Patterns,
    Positive,
    Section,
    Share,
    given,
    listed,
)


class FitSection(Section):
    """The settings of one `fit`.

    Args:
        epochs: Passes over the training data.
        optimizer: Name of a Keras optimizer.
        learning_rate: Its learning rate, at the start where `decay` is `cosine`.
        decay: `constant`, or `cosine` down to zero at the stage's end (Loshchilov & Hutter 2017).
        weight_decay: Decoupled weight decay per step, for optimizers that take it.
    """

    epochs: Positive
    optimizer: str = "adam"
    learning_rate: LearningRate = 1e-3
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    @property
    def duration(self) -> str:
        """The epochs in words."""
        return f"{self.epochs} epoch" + ("s" if self.epochs != 1 else "")

    def own_settings(self) -> dict[str, Any]:
        """Return what a section says beside how to train, by name."""
        return self.model_dump(exclude=set(FitSection.model_fields))


class TrainSection(FitSection):
    """Training of the float model.

    Args:
        loss: Keras loss. `None` chooses by the data: cross-entropy for classes.
        metrics: Keras metrics shown during training. `None` chooses by the data.
    """

    epochs: Positive = 10
    loss: str | None = None
    metrics: list[str] | None = None


def _by_layer(value: object) -> str:
    return "shares by layer" if isinstance(value, dict) else "one value"


# Chosen by what is given, so that a wrong value is told what it should have been.
Sparsity = Annotated[
    Annotated[Share, Tag("one value")] | Annotated[dict[str, Share], Tag("shares by layer")],
    Discriminator(_by_layer),
]
Scope = Annotated[
    Annotated[Literal["global", "uniform", "erdos-renyi-kernel"], Tag("one value")]
    | Annotated[dict[str, Share], Tag("shares by layer")],
    Discriminator(_by_layer),
]
_GOALS = ("sparsity", "parameters", "bytes", "gzip_bytes", "macs")


class PruneSection(FitSection):
    """Pruning; see `tfcompress.callbacks.MagnitudePruning`.

    Exactly one of `sparsity`, `parameters`, `bytes`, `gzip_bytes` and `macs`, or a `pattern` such
    as `2:4`.

    Args:
        sparsity: Share of zeros at the end, over all pruned kernels; or shares by layer.
        parameters: Parameters of the model that are left at the end.
        bytes: Bytes of the int8 weights at the end, stored sparsely.
        gzip_bytes: Bytes of the int8 file at the end, after gzip.
        macs: Multiplications by weights that are not zero at the end; up to 1, a share.
        schedule: `constant`, `polynomial`, `cosine` or a schedule's config.
        begin: Step, or share of the stage, at which pruning starts.
        end: Step, or share of the stage, at which the sparsity is reached.
        frequency: Steps between two updates of the masks; `None` leaves the choice to the callback.
        scope: `global` (one threshold), `uniform` (the same sparsity in every kernel),
            `erdos-renyi-kernel` (small kernels denser), or proportions by layer.
        criterion: `magnitude`, `lamp`, `taylor`, `movement`, `batchnorm_scale`, `apoz`,
            `mean_activation`, `random` or a criterion's config.
        pattern: `unstructured`, blocks such as `1x4`, N of M such as `2:4`, or `channel`.
        include: Layers to prune, by name, regular expression or class; `None` means all.
        exclude: Layers to leave alone.
        regrow_until: Step, or share of the stage, up to which pruned weights may come back; `None`
            means never.
    """

    epochs: Positive = 5
    sparsity: Sparsity | None = None
    parameters: Positive | None = None
    bytes: Positive | None = None
    gzip_bytes: Positive | None = None
    macs: Annotated[int | float, Field(gt=0)] | None = None
    schedule: str | dict[str, Any] = "polynomial"
    begin: Moment = 0.0
    end: Moment = 0.6
    frequency: Positive | None = None
    scope: Scope = "global"
    criterion: str | dict[str, Any] = "magnitude"
    pattern: str | None = None
    include: Patterns = None
    exclude: Patterns = None
    regrow_until: Moment | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if type(self.begin) is type(self.end) and self.begin > self.end:
            raise ValueError(f"an `end` ({self.end}) that is not before `begin` ({self.begin})")
        return self

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        found = given(self, _GOALS)
        if len(found) != (0 if ":" in (self.pattern or "") else 1):
            raise ValueError(
                f"exactly one of {listed(_GOALS)}, or none where `pattern` is N of M; "
                f"given: {', '.join(found) or 'none'}"
            )
        return self

    @property
    def goal(self) -> str:
        """What is asked for, in a word or two."""
        if isinstance(self.sparsity, float):
            return f"{self.sparsity:.0%}"
        if self.sparsity is not None:
            return "by layer"
        for name, value in given(self, _GOALS).items():
            return f"{value:,} {name.replace('_', ' ')}"
        return f"{self.pattern}"


class QuantizeSection(FitSection):
    """Quantization-aware training; see `quantize_aware` and `callbacks.QuantizationSchedule`.

    Args:
        scheme: Name of the quantization scheme, a mapping of its settings (`SchemeSettings`), or
            schemes by layer: `default`, layer names, regular expressions and layer classes, each
            with a scheme or null for float; the last that matches a layer counts.
        calibration_samples: Training samples that the first ranges are taken from.
        begin: Step or share of the stage from which on the forward pass is quantized.
        freeze_ranges: Step or share from which on the activation ranges stay as they are.
        freeze_batchnorm: Step or share from which on batch normalisation stays as it is.
    """

    epochs: Positive = 2
    learning_rate: LearningRate = 1e-4
    scheme: SchemeValue = "int8"
    calibration_samples: Positive = 256
    begin: Moment = 0.0
    freeze_ranges: Moment | None = None
    freeze_batchnorm: Moment | None = None

    @property
    def scheme_name(self) -> str:
        """What files and reports call the scheme."""
        if isinstance(self.scheme, str):
            return self.scheme
        if any(key in SchemeSettings.model_fields for key in self.scheme):
            return str(self.scheme.get("name") or "custom")
        return "mixed"

"""What makes a weight worth keeping: a score for each unit, of which the lowest are pruned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from tfcompress.pruning.configured import Configured

if TYPE_CHECKING:
    from tfcompress.pruning.targets import PruningTarget

Tensor = Any

# Keeps a tensor of zeros from dividing by zero.
_SMALLEST = 1e-30


@dataclass(frozen=True, eq=False)
class Units:
    """The weights of one tensor, in units that are kept or pruned as a whole.

    Attributes:
        weights: Float tensor of shape `(units, members)`; one member each unless the pattern is of
            blocks or channels.
        kept: Boolean tensor of shape `(units,)`, False where pruned already.
        index: Position of the tensor among all that are pruned.
        evidence: What the criterion accumulated in training, of the shape of `weights`; None for
            criteria that do not.
        channel_values: What the criterion measured, of shape `(units,)`; None for criteria that
            do not.
    """

    weights: Tensor
    kept: Tensor
    index: int = 0
    evidence: Tensor = None
    channel_values: Tensor = None


class Measurement(ABC):
    """Values of the output channels of some weights, read off a model at every mask update."""

    @abstractmethod
    def read(self) -> dict[int, Tensor]:
        """Values of shape `(channels,)`, by `id(variable)` of the weight."""


class Criterion(Configured, ABC):
    """Base class of pruning criteria.

    A criterion scores the units of one tensor. Scores are compared within a tensor and, with the
    global scope, between tensors, which is where criteria differ most. Subclass it, implement
    `scores` and `get_config`, and register the class with
    `keras.saving.register_keras_serializable` to use it in a recipe.

    Attributes:
        uses_gradients: Whether `accumulate` is called in every training step.
        uses_channels: Whether it scores whole output channels only, by what `measurement` reads.
    """

    uses_gradients = False
    uses_channels = False

    @abstractmethod
    def scores(self, units: Units) -> Tensor:
        """Score the units of a tensor.

        Args:
            units: The weights, and what is known about them.

        Returns:
            Float tensor of shape `(units,)`; the lowest are pruned first. What is pruned already
            goes first whatever its score.
        """

    def accumulate(self, evidence: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Take note of a training step; called where `uses_gradients` is True.

        Args:
            evidence: What was accumulated so far, float32, of the weight's shape; zeros at first.
            weight: The weight before the step, float32.
            gradient: Gradient of the loss, float32.

        Returns:
            The new evidence.
        """
        raise NotImplementedError(f"{type(self).__name__} does not look at gradients")

    def measurement(
        self, model: keras.Model, targets: Sequence[PruningTarget], data: Any
    ) -> tuple[Measurement | None, dict[int, str]]:
        """Prepare to measure channels; called where `uses_channels` is True.

        Args:
            model: The model.
            targets: Weights to prune.
            data: Samples, as calibration data; None if the user gave none.

        Returns:
            What measures, and the reason for every weight that cannot be scored, by
            `id(variable)`.
        """
        return None, {}


@keras.saving.register_keras_serializable(package="tfcompress")
class Magnitude(Criterion):
    """The magnitude of a weight: small ones change the output least.

    Blocks and channels are scored by their norm, divided so that units of different sizes compare:
    the root of the mean square, or the mean magnitude.

    Reference: Han et al., "Learning both Weights and Connections for Efficient Neural Networks"
    (2015), https://arxiv.org/abs/1506.02626, section 3; for filters Li et al., "Pruning Filters for
    Efficient ConvNets" (2017), https://arxiv.org/abs/1608.08710, section 3.1.

    Args:
        norm: 2 or 1, the norm of blocks and channels. Defaults to 2.

    Raises:
        ValueError: If `norm` is neither.
    """

    def __init__(self, norm: int = 2) -> None:
        if norm not in (1, 2):
            raise ValueError(f"`norm` must be 1 or 2. Received: norm={norm!r}")
        self.norm = norm

    def scores(self, units: Units) -> Tensor:
        """Magnitudes, or norms of blocks."""
        if units.weights.shape[1] == 1:
            return ops.abs(_flat(units.weights))
        values = ops.cast(units.weights, "float32")
        if self.norm == 1:
            return ops.mean(ops.abs(values), axis=1)
        return ops.sqrt(ops.mean(ops.square(values), axis=1))

    def get_config(self) -> dict[str, Any]:
        """The norm."""
        return {"norm": self.norm}


@keras.saving.register_keras_serializable(package="tfcompress")
class LayerAdaptiveMagnitude(Criterion):
    """LAMP: the share of a weight in what is left of its layer.

    `w[u]**2 / sum(w[v]**2 for v with abs(w[v]) >= abs(w[u]))`. Within a layer the order is that of
    the magnitudes; between layers the scores make the sparsity of each adapt to its weights, and no
    layer is ever emptied, since the largest weight of each scores 1. Meant for the global scope.

    Reference: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021),
    https://arxiv.org/abs/2010.07611, equation 4.
    """

    def scores(self, units: Units) -> Tensor:
        """Equation 4, in float32; the square of a block is the sum of its squares."""
        squares = _total(ops.square(ops.cast(units.weights, "float32")))
        squares = ops.where(units.kept, squares, 0.0)
        order = ops.argsort(squares)
        ascending = ops.take(squares, order)
        # Summed from the large end, where the terms that count are.
        rest = ops.flip(ops.cumsum(ops.flip(ascending, 0)), 0)
        score = ascending / ops.maximum(rest, _SMALLEST)
        positions = ops.cast(ops.expand_dims(order, 1), "int32")
        return ops.scatter(positions, score, tuple(score.shape))


@keras.saving.register_keras_serializable(package="tfcompress")
class RandomScore(Criterion):
    """Random scores: the control that a criterion has to beat.

    Args:
        seed: Seed of the scores. Defaults to 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, units: Units) -> Tensor:
        """The same random numbers in (0, 1] at every update."""
        shape = (units.weights.shape[0],)
        return 1.0 - keras.random.uniform(shape, dtype="float32", seed=self.seed + units.index)

    def get_config(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package="tfcompress")
class Taylor(Criterion):
    """The change of the loss without a weight, to first order: the square of weight times gradient.

    Averaged over the training steps so far, recent ones counting more, and summed over the weights
    of a block or channel. It comes from the training's own gradients: no further pass is made.

    Reference: Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019),
    https://arxiv.org/abs/1906.10771, equation 8.

    Args:
        momentum: Share of the average that stays in each step, in [0, 1). Defaults to 0.99.

    Raises:
        ValueError: If `momentum` is outside its range.

    Example:

    ```python
    MagnitudePruning(sparsity=0.8, criterion="taylor")
    ```
    """

    uses_gradients = True

    def __init__(self, momentum: float = 0.99) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum` must be at least 0 and below 1. Received: momentum={momentum!r}"
            )
        self.momentum = float(momentum)

    def accumulate(self, evidence: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """The moving average of the squares; all start at 0 alike, so the order is right."""
        square = ops.square(weight * gradient)
        return evidence + (1.0 - self.momentum) * (square - evidence)

    def scores(self, units: Units) -> Tensor:
        """Equation 8: the average squares, summed over a unit."""
        return _total(units.evidence)

    def get_config(self) -> dict[str, Any]:
        """The momentum."""
        return {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="tfcompress")
class Movement(Criterion):
    """How far training has moved a weight away from zero: the sum of minus weight times gradient.

    Weights that shrink go first, however large they still are, which suits the fine-tuning of a
    network that was trained on another task. It comes from the training's own gradients: no further
    pass is made. Pruned weights stay pruned, as in the paper's hard form.

    Reference: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020),
    https://arxiv.org/abs/2005.07683, equation 3.

    Example:

    ```python
    MagnitudePruning(sparsity=0.8, criterion="movement")
    ```
    """

    uses_gradients = True

    def accumulate(self, evidence: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Equation 3, without the learning rate, which all weights share."""
        return evidence - weight * gradient

    def scores(self, units: Units) -> Tensor:
        """The sums, averaged over a unit."""
        return _total(units.evidence) / units.weights.shape[1]


def _flat(values: Tensor) -> Tensor:
    return ops.reshape(values, (-1,))


def _total(values: Tensor) -> Tensor:
    # Reducing an axis of one is a full pass over the tensor.
    return _flat(values) if values.shape[1] == 1 else ops.sum(values, axis=1)

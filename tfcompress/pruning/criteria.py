"""What makes a weight worth keeping: a score for each, of which the lowest are pruned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras
from keras import ops

from tfcompress.pruning.configured import Configured, choose
from tfcompress.pruning.masks import magnitudes

Tensor = Any

# Keeps a tensor of zeros from dividing by zero.
_SMALLEST = 1e-30


class Criterion(Configured, ABC):
    """Base class of pruning criteria.

    A criterion scores the weights of one tensor. Scores are compared within a tensor and, with
    the global scope, between tensors, which is where criteria differ most. Subclass it, implement
    `scores` and `get_config`, and register the class with
    `keras.saving.register_keras_serializable` to use it in a recipe.
    """

    @abstractmethod
    def scores(self, weight: Tensor, mask: Tensor, index: int) -> Tensor:
        """Score the weights of a tensor.

        Args:
            weight: Float tensor of any shape.
            mask: Boolean tensor of the same shape, False where a weight is pruned already.
            index: Position of the tensor among all that are pruned.

        Returns:
            Float tensor of the same shape, not negative; the lowest are pruned first. What is
            pruned already goes first whatever its score.
        """


@keras.saving.register_keras_serializable(package="tfcompress")
class Magnitude(Criterion):
    """The magnitude of a weight: small ones change the output least.

    Reference: Han et al., "Learning both Weights and Connections for Efficient Neural Networks"
    (2015), https://arxiv.org/abs/1506.02626, section 3.
    """

    def scores(self, weight: Tensor, mask: Tensor, index: int) -> Tensor:
        """The weights themselves, whose magnitudes are compared."""
        return weight


@keras.saving.register_keras_serializable(package="tfcompress")
class LayerAdaptiveMagnitude(Criterion):
    """LAMP: the share of a weight in what is left of its layer.

    `w[u]**2 / sum(w[v]**2 for v with abs(w[v]) >= abs(w[u]))`. Within a layer the order is that of
    the magnitudes; between layers the scores make the sparsity of each adapt to its weights, and no
    layer is ever emptied, since the largest weight of each scores 1. Meant for the global scope.

    Reference: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021),
    https://arxiv.org/abs/2010.07611, equation 4.
    """

    def scores(self, weight: Tensor, mask: Tensor, index: int) -> Tensor:
        """Equation 4, in float32."""
        squares = ops.square(ops.cast(magnitudes(weight, mask), "float32"))
        order = ops.argsort(squares)
        ascending = ops.take(squares, order)
        # Summed from the large end, where the terms that count are.
        rest = ops.flip(ops.cumsum(ops.flip(ascending, 0)), 0)
        score = ascending / ops.maximum(rest, _SMALLEST)
        ranks = ops.argsort(order)
        return ops.reshape(ops.take(score, ranks), tuple(weight.shape))


@keras.saving.register_keras_serializable(package="tfcompress")
class RandomScore(Criterion):
    """Random scores: the control that a criterion has to beat.

    Args:
        seed: Seed of the scores. Defaults to 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, weight: Tensor, mask: Tensor, index: int) -> Tensor:
        """The same random numbers in (0, 1] at every update."""
        shape = (math.prod(weight.shape),)
        values = 1.0 - keras.random.uniform(shape, dtype="float32", seed=self.seed + index)
        return ops.reshape(values, tuple(weight.shape))

    def get_config(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "lamp": LayerAdaptiveMagnitude,
    "random": RandomScore,
}


def get(identifier: str | dict[str, Any] | Criterion) -> Criterion:
    """Return the criterion that a name, a config or an object stands for.

    Args:
        identifier: `"magnitude"`, `"lamp"`, `"random"`, a `Criterion`, or its serialized config.

    Raises:
        ValueError: If it is none of these.

    Example:

    ```python
    get("lamp") == LayerAdaptiveMagnitude()
    ```
    """
    return choose(identifier, Criterion, CRITERIA, "criterion")  # type: ignore[type-abstract]

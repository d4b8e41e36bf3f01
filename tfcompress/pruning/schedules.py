"""How sparsity rises between the begin and the end of pruning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras

from tfcompress.pruning.configured import Configured, choose


class PruningSchedule(Configured, ABC):
    """Base class of pruning schedules: the sparsity as a function of progress.

    A schedule knows neither steps nor masks. It maps progress, the share of the way from `begin` to
    `end`, to a sparsity, and must return `final_sparsity` at progress 1. Subclass it, implement
    `__call__`, `get_config`, and register the class with
    `keras.saving.register_keras_serializable` to use it in a recipe.
    """

    @abstractmethod
    def __call__(self, progress: float, final_sparsity: float) -> float:
        """The sparsity at a point of the schedule.

        Args:
            progress: Share of the way from begin to end, in [0, 1].
            final_sparsity: Sparsity at the end, in [0, 1).

        Returns:
            Sparsity in [0, 1).
        """

    def check(self, final_sparsity: float) -> None:
        """Raise ValueError if the schedule cannot rise to `final_sparsity`."""


class _RisingSparsity(PruningSchedule):
    """A schedule that starts at `initial_sparsity`."""

    def __init__(self, initial_sparsity: float = 0.0) -> None:
        if not _is_number(initial_sparsity) or not 0 <= initial_sparsity < 1:
            raise ValueError(
                "`initial_sparsity` must be at least 0 and below 1. "
                f"Received: initial_sparsity={initial_sparsity!r}"
            )
        self.initial_sparsity = float(initial_sparsity)

    def check(self, final_sparsity: float) -> None:
        """Raise ValueError if `final_sparsity` lies below the initial sparsity."""
        if self.initial_sparsity > final_sparsity:
            raise ValueError(
                "The schedule's `initial_sparsity` must not exceed the final `sparsity`. "
                f"Received: initial_sparsity={self.initial_sparsity}, sparsity={final_sparsity}"
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"initial_sparsity": self.initial_sparsity}


@keras.saving.register_keras_serializable(package="tfcompress")
class ConstantSparsity(PruningSchedule):
    """The final sparsity at once, from `begin` on (one-shot pruning).

    Example:

    ```python
    MagnitudePruning(sparsity=0.5, schedule="constant", begin=0.25)
    ```
    """

    def __call__(self, progress: float, final_sparsity: float) -> float:
        """The final sparsity, whatever the progress."""
        return final_sparsity


@keras.saving.register_keras_serializable(package="tfcompress")
class PolynomialDecay(_RisingSparsity):
    """Sparsity that rises fast first, while there is much to prune, then ever slower.

    `final + (initial - final) * (1 - progress) ** power`: Zhu and Gupta, "To prune, or not to
    prune" (2017), https://arxiv.org/abs/1710.01878, equation 1, where `power` is 3.

    Args:
        initial_sparsity: Sparsity at the beginning, in [0, 1). Defaults to `0.0`.
        power: Exponent, above 0. 1 rises in a straight line. Defaults to `3.0`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    ```python
    schedule = PolynomialDecay(initial_sparsity=0.2)
    schedule(0.5, 0.8)    # 0.725
    ```
    """

    def __init__(self, initial_sparsity: float = 0.0, power: float = 3.0) -> None:
        super().__init__(initial_sparsity)
        if not _is_number(power) or not 0 < power < math.inf:
            raise ValueError(f"`power` must be above 0. Received: power={power!r}")
        self.power = float(power)

    def __call__(self, progress: float, final_sparsity: float) -> float:
        """Equation 1 of Zhu and Gupta."""
        return (
            final_sparsity
            + (self.initial_sparsity - final_sparsity) * (1.0 - progress) ** self.power
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable(package="tfcompress")
class CosineDecay(_RisingSparsity):
    """Sparsity that rises along half a cosine: slowly, then fast, then slowly.

    `final + (initial - final) * (1 + cos(pi * progress)) / 2`: the annealing curve of Loshchilov
    and Hutter, "SGDR" (2016), https://arxiv.org/abs/1608.03983, applied to density.

    Args:
        initial_sparsity: Sparsity at the beginning, in [0, 1). Defaults to `0.0`.

    Raises:
        ValueError: If `initial_sparsity` is outside [0, 1).
    """

    def __call__(self, progress: float, final_sparsity: float) -> float:
        """Half a period of a cosine from the initial to the final sparsity."""
        remaining = (1.0 + math.cos(math.pi * progress)) / 2.0
        return final_sparsity + (self.initial_sparsity - final_sparsity) * remaining


SCHEDULES: dict[str, type[PruningSchedule]] = {
    "constant": ConstantSparsity,
    "polynomial": PolynomialDecay,
    "cosine": CosineDecay,
}


def get(identifier: str | dict[str, Any] | PruningSchedule) -> PruningSchedule:
    """Return the schedule that a name, a config or an object stands for.

    Args:
        identifier: `"constant"`, `"polynomial"`, `"cosine"`, a `PruningSchedule`, or its
            serialized config.

    Returns:
        The schedule.

    Raises:
        ValueError: If it is none of these.

    Example:

    ```python
    get("polynomial") == PolynomialDecay()
    get(PolynomialDecay(power=1)).power    # 1.0
    ```
    """
    return choose(identifier, PruningSchedule, SCHEDULES, "schedule")  # type: ignore[type-abstract]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""How small a model is to become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfcompress.plain_numbers import plain_number
from tfcompress.pruning.structured.cost import Figures

NAMES = ("macs", "parameters", "bytes", "sparsity")


@dataclass(frozen=True)
class ChannelGoal:
    """One figure that a smaller model must not exceed.

    Attributes:
        name: `"macs"`, `"parameters"`, `"bytes"` or `"sparsity"`, the share of channels to remove.
        amount: What may be left: a float in (0, 1] is a share of the dense model's, an int above 1
            is absolute. For `"sparsity"` the share that goes, in [0, 1).
        drifts: Whether fine-tuning moves the figure though the masks stay: never.
    """

    name: str
    amount: int | float
    drifts: ClassVar[bool] = False

    @property
    def asked(self) -> int | float:
        """The amount, as the user gave it."""
        return self.amount

    @classmethod
    def of(cls, **amounts: int | float | None) -> ChannelGoal | None:
        """The goal among arguments of these names; None if all are None.

        Raises:
            ValueError: If there are several, or one is out of its range.
        """
        given = {name: plain_number(a) for name, a in amounts.items() if a is not None}
        if not given:
            return None
        if len(given) > 1:
            shown = ", ".join(f"{name}={amount!r}" for name, amount in given.items())
            raise ValueError(f"Give one of {', '.join(NAMES)}, not several. Received: {shown}")
        name, amount = next(iter(given.items()))
        number = not isinstance(amount, bool) and isinstance(amount, (int, float))
        if name == "sparsity":
            if not number or not 0 <= amount < 1:
                raise ValueError(
                    "`sparsity` is the share of channels to remove and must be at least 0 and "
                    f"below 1. Received: sparsity={amount!r}"
                )
        elif not number or not (0 < amount <= 1 or (isinstance(amount, int) and amount > 1)):
            raise ValueError(
                f"`{name}` is what may be left: a float above 0 and up to 1 for a share of the "
                f"dense model's, or an int above 1. Received: {name}={amount!r}"
            )
        return cls(name, amount)

    def limit(self, dense: Figures) -> float:
        """The figure that must not be exceeded."""
        if self.name == "sparsity":
            return dense.channels * (1 - self.amount)
        whole: int = getattr(dense, self.name)
        return self.amount if self.amount > 1 else whole * self.amount

    def reduction(self, dense: Figures) -> float:
        """The share of the dense model's figure that has to go, in [0, 1)."""
        return max(0.0, 1 - self.limit(dense) / self.value(dense)) if self.value(dense) else 0.0

    def value(self, figures: Figures) -> int:
        """The figure that the goal is about."""
        value: int = figures.channels if self.name == "sparsity" else getattr(figures, self.name)
        return value

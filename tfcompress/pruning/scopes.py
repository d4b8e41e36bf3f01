"""How a sparsity of the whole model is shared out among its weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfcompress.hints import did_you_mean
from tfcompress.pruning.configured import Configured


@dataclass(frozen=True)
class Room:
    """What can be pruned in one tensor.

    Attributes:
        shape: Shape of the weight.
        most: How many of its entries may be pruned at most.
        share: Sparsity that the user wants in it, beside those of the others; None if none is
            given.
    """

    shape: tuple[int, ...]
    most: int
    share: float | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


# Positions of tensors that are ranked together, and how many entries to prune in them.
Share = tuple[tuple[int, ...], int]


class Scope(Configured, ABC):
    """Base class of scopes: which tensors are ranked together, and how much each group loses."""

    @abstractmethod
    def shares(self, rooms: Sequence[Room], sparsity: float) -> list[Share]:
        """Share out a sparsity.

        Args:
            rooms: What can be pruned in each tensor.
            sparsity: Share of all entries to prune, in [0, 1).

        Returns:
            Groups of tensors, each with the number of entries to prune. Rising sparsities never
            give a group less.
        """


class GlobalScope(Scope):
    """One threshold for all tensors: those that matter keep more."""

    def shares(self, rooms: Sequence[Room], sparsity: float) -> list[Share]:
        """All tensors in one group."""
        return [(tuple(range(len(rooms))), wanted(rooms, sparsity))]


class UniformScope(Scope):
    """The same sparsity in every tensor."""

    def shares(self, rooms: Sequence[Room], sparsity: float) -> list[Share]:
        """Each tensor by itself."""
        return [((index,), wanted([room], sparsity)) for index, room in enumerate(rooms)]


class ErdosRenyiKernelScope(Scope):
    """Small and thin tensors stay denser: densities in proportion to `sum(shape) / prod(shape)`.

    Tensors whose density would exceed 1 stay dense, and the others make up for them.

    Reference: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (2020),
    https://arxiv.org/abs/1911.11134, section 3 (1), Erdős–Rényi-Kernel.
    """

    def shares(self, rooms: Sequence[Room], sparsity: float) -> list[Share]:
        """Each tensor by itself."""
        kept = sum(room.size for room in rooms) - wanted(rooms, sparsity)
        raw = [sum(room.shape) / room.size for room in rooms]
        density = _scaled_up(raw, [room.size for room in rooms], kept)
        parts = [room.size * (1.0 - d) for room, d in zip(rooms, density)]
        return _rounded(rooms, parts, wanted(rooms, sparsity))


class ProfileScope(Scope):
    """Sparsities of the tensors in given proportions, at most what can be pruned of each.

    At the sparsity that the given ones amount to together, they are met exactly.
    """

    def shares(self, rooms: Sequence[Room], sparsity: float) -> list[Share]:
        """Each tensor by itself."""
        own = [room.share or 0.0 for room in rooms]
        exact = [wanted([room], share) for room, share in zip(rooms, own)]
        total = wanted(rooms, sparsity)
        if total == sum(exact):
            return [((index,), count) for index, count in enumerate(exact)]
        sizes = [room.size for room in rooms]
        highest = [room.most / room.size for room in rooms]
        reached = _scaled_up(own, sizes, total, highest)
        return _rounded(rooms, [size * s for size, s in zip(sizes, reached)], total)


SCOPES: dict[str, type[Scope]] = {
    "global": GlobalScope,
    "uniform": UniformScope,
    "erdos-renyi-kernel": ErdosRenyiKernelScope,
}


def get(identifier: Any) -> Scope:
    """Return the scope that a name, or a mapping of sparsities by layer, stands for.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(identifier, Scope):
        return identifier
    if isinstance(identifier, Mapping) or callable(getattr(identifier, "sparsities", None)):
        return ProfileScope()
    if isinstance(identifier, str) and identifier in SCOPES:
        return SCOPES[identifier]()
    hint = did_you_mean(str(identifier).lower(), SCOPES)
    raise ValueError(
        f"`scope` must be one of {', '.join(map(repr, SCOPES))}, sparsities by layer such as "
        "{'conv1': 0.5, 're:dense.*': 0.9}, or what `tfcompress.sensitivity` returns. "
        f"Received: scope={identifier!r}.{hint}"
    )


def wanted(rooms: Sequence[Room], sparsity: float) -> int:
    """How many entries a sparsity prunes: the nearest number that the tensors have room for."""
    total = sum(room.size for room in rooms)
    return max(0, min(sum(room.most for room in rooms), math.floor(total * sparsity + 0.5)))


def _scaled_up(
    proportions: Sequence[float],
    sizes: Sequence[int],
    total: float,
    highest: Sequence[float] | None = None,
) -> list[float]:
    """Scale proportions, each cut at its highest, so that they add up to `total` by size."""
    limits = [1.0] * len(sizes) if highest is None else list(highest)
    cut: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in cut]
        weight = sum(proportions[i] * sizes[i] for i in free)
        left = total - sum(limits[i] * sizes[i] for i in cut)
        factor = max(0.0, left / weight) if weight else 0.0
        beyond = {i for i in free if factor * proportions[i] > limits[i]}
        if not beyond:
            return [limits[i] if i in cut else factor * proportions[i] for i in range(len(sizes))]
        cut |= beyond


def _rounded(rooms: Sequence[Room], parts: Sequence[float], total: int) -> list[Share]:
    """Whole numbers near `parts` that add up to `total`, within what each tensor has room for."""
    counts = [min(room.most, max(0, math.floor(part))) for room, part in zip(rooms, parts)]
    by_rest = sorted(range(len(rooms)), key=lambda i: counts[i] - parts[i])
    missing = total - sum(counts)
    while missing > 0:
        open_ones = [i for i in by_rest if counts[i] < rooms[i].most]
        if not open_ones:
            break
        for index in open_ones[:missing]:
            # One each for what rounding lost; what a full tensor lost goes to the others at once.
            step = max(1, min(rooms[index].most - counts[index], missing // len(open_ones)))
            counts[index] += step
            missing -= step
            if missing <= 0:
                break
    return [((index,), count) for index, count in enumerate(counts)]

"""The axes that an operation works over."""

from __future__ import annotations

from collections.abc import Sequence


def axes_of(axis: int | Sequence[int] | None, rank: int) -> list[int]:
    """List the axes that an attribute `axis` names, counted from the front.

    Args:
        axis: One axis, several, or None for all.
        rank: Rank of the tensor.
    """
    if axis is None:
        return list(range(rank))
    listed = [axis] if isinstance(axis, int) else axis
    return [int(index) % rank for index in listed]

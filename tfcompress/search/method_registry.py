"""The methods of a sensitivity search, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfcompress.search.channels import Channels
from tfcompress.search.methods import Bits, Method, Sparsity

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Sparsity, Bits, Channels)}


def get_methods(names: str | Sequence[str | Method]) -> list[Method]:
    """Return the methods that names stand for.

    Args:
        names: A name, or names and `Method`s.

    Raises:
        ValueError: If a name is unknown, or there are none.
    """
    chosen: list[Any] = [names] if isinstance(names, (str, Method)) else list(names)
    found = []
    for entry in chosen:
        if not isinstance(entry, Method) and entry not in METHODS:
            raise ValueError(
                f"`methods` must be among {', '.join(map(repr, METHODS))}. Received: {entry!r}"
            )
        found.append(entry if isinstance(entry, Method) else METHODS[entry]())
    if not found:
        raise ValueError("`methods` must name at least one method. Received: none")
    return found

"""What is known of kinds of layers and operations, by class or by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import keras

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries for layer classes, whose subclasses they cover too, and for `keras.ops` operations.

    Example:

    ```python
    registry = Registry()
    registry.add("a product", keras.layers.Dense, "Matmul")
    registry.find(keras.layers.Dense(3))    # "a product"
    ```
    """

    def __init__(self) -> None:
        self._layers: dict[type, Entry] = {}
        self._operations: dict[str, Entry] = {}

    def add(self, entry: Entry, *kinds: type | str) -> None:
        """Register an entry in the place of any earlier one.

        Args:
            entry: The entry.
            *kinds: Layer classes, and names of operation classes as they stand in a model's graph,
                such as `"Add"` for `keras.ops.add` and `x + y`.
        """
        for kind in kinds:
            if isinstance(kind, str):
                self._operations[kind] = entry
            else:
                self._layers[kind] = entry

    def register(self, *kinds: type | str) -> Callable[[type[Entry]], type[Entry]]:
        """Register a class, of which one object becomes the entry.

        Args:
            *kinds: See `add`.

        Returns:
            A class decorator.
        """

        def decorate(entry_class: type[Entry]) -> type[Entry]:
            self.add(entry_class(), *kinds)
            return entry_class

        return decorate

    def find(self, operation: keras.Operation) -> Entry | None:
        """The entry of a layer's class or its nearest base class, or of an operation; or None."""
        if isinstance(operation, keras.layers.Layer):
            known = (self._layers[c] for c in type(operation).__mro__ if c in self._layers)
            return next(known, None)
        return self._operations.get(type(operation).__name__)

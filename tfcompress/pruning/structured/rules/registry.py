"""The registry of dependency rules: one small rule for each kind of layer or operation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import keras

from tfcompress.graph import Node
from tfcompress.graph.registry import Registry
from tfcompress.pruning.structured.coupling import Coupling, Flow

if TYPE_CHECKING:
    from tfcompress.pruning.structured.kept import Kept


class Rule(ABC):
    """How one kind of operation couples channels. Subclass, override, register.

    Example: a custom layer `y = x @ w` with a width of its own.

    ```python
    @register(MyDense)
    class MyDenseRule(Rule):
        def couple(self, node, coupling):
            layer = node.operation
            channels = coupling.fresh(node, layer.width)
            coupling.read(node, layer.w, 0, node.inputs[0], -1)
            coupling.bind(node, layer.w, 1, channels)
            return [Flow([None, channels])]

        def config(self, node, kept):
            return {"width": kept.weight(node.operation.w, 1)}
    ```
    """

    @abstractmethod
    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Describe the weights of a node, and return what is known of each of its outputs."""

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The entries in which the config of the smaller layer differs. Defaults to none."""
        return {}

    def arguments(
        self, node: Node, kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call in the smaller model. Defaults to those of the node."""
        return args, kwargs

    def factors(self, node: Node, kept: Kept) -> dict[int, float]:
        """Factors for weights of the smaller layer, by `id(variable)`. Defaults to none."""
        return {}


class UnknownRule(Rule):
    """The rule of operations that no rule is registered for: nothing around them can go."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Pin all that the node reads."""
        return pinned(node, coupling, f"there is no dependency rule for {describe(node)}")


def pinned(node: Node, coupling: Coupling, reason: str) -> list[Flow]:
    """Pin all channels that a node reads; it makes none."""
    for tensor in node.inputs:
        coupling.pin_others(tensor, (), reason)
    return [unlabelled(tensor) for tensor in node.outputs]


def unlabelled(tensor: Any) -> Flow:
    """A tensor without channels."""
    return Flow([None] * len(tensor.shape))


def describe(node: Node) -> str:
    """A node in a reason, such as `LayerNormalization 'encoder/norm'`."""
    return f"{node.type_name} '{node.name}'"


def nested_config(serialized: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A serialized layer inside another one's config, with other entries and not yet built."""
    # With the original's shapes it would be built right away.
    bare = {key: value for key, value in serialized.items() if key != "build_config"}
    return {**bare, "config": {**serialized["config"], **changed}}


_RULES: Registry[Rule] = Registry()

# Registers a rule class for layer classes and operations, as in the example of `Rule`.
register = _RULES.register


def rule_of(operation: keras.Operation) -> Rule:
    """The rule of a layer or operation; an `UnknownRule` when there is none."""
    return _RULES.find(operation) or UnknownRule()

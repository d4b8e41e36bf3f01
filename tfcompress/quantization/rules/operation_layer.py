"""A plain Keras operation as a layer, so that it can be wrapped as layers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.graph import Node, Tensor, keras_internals


@keras.saving.register_keras_serializable("tfcompress")
class OperationLayer(keras.layers.Layer):
    """Does what an operation does, such as the one behind `keras.ops.elu` or `x * 2`.

    Args:
        operation: The operation.
        constants: Positions of the arguments that are constants. Defaults to none.

    Call arguments:
        *args: What the operation takes, in its order.
    """

    def __init__(
        self, operation: keras.Operation, constants: Sequence[int] = (), **kwargs: Any
    ) -> None:
        kwargs.setdefault("name", operation.name)
        super().__init__(**kwargs)
        keras_internals.take_constants(self)
        # An operation drops masks without the warning that a layer gives.
        self.supports_masking = True
        self.operation = operation
        self.constants = tuple(constants)

    @classmethod
    def of(cls, operation: keras.Operation, node: Node) -> OperationLayer:
        """A layer for the operation of a node, computing in the precision of its output."""
        constants = [i for i, value in enumerate(node.args) if not isinstance(value, Tensor)]
        return cls(operation, constants, dtype=node.outputs[0].dtype)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation makes of its arguments."""
        return self.operation(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """None, as of an operation."""

    def plain(self) -> keras.Operation:
        """A new operation like the one inside."""
        return type(self.operation).from_config(self.operation.get_config())

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "operation": keras.saving.serialize_keras_object(self.operation),
            "constants": list(self.constants),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OperationLayer:
        """The layer that `get_config` describes."""
        operation = keras.saving.deserialize_keras_object(config["operation"])
        return cls(**{**config, "operation": operation})


def operation_of(layer: keras.Operation) -> keras.Operation:
    """The operation inside an `OperationLayer`; any other layer itself."""
    return layer.operation if isinstance(layer, OperationLayer) else layer

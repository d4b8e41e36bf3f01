"""A lookup in a constant table that becomes one operator."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("tfcompress")
class Gather(keras.layers.Layer):
    """Rows of a table, for exported graphs.

    `keras.ops.take` allows negative indices, which costs three more operators in a file; one of
    them (SELECT) is not among those of LiteRT for Microcontrollers.

    Args:
        rows: Number of rows of the table.
        features: Number of its columns.

    Call arguments:
        inputs: Integers of shape (...), from 0 to rows - 1.

    Output shape:
        (..., features).
    """

    def __init__(self, rows: int, features: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.rows = rows
        self.features = features
        self.autocast = False
        self.table = self.add_weight(name="table", shape=(rows, features), trainable=False)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The rows."""
        import tensorflow as tf

        return tf.gather(tf.convert_to_tensor(self.table), inputs)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """The shape of the indices, and the features."""
        return keras.KerasTensor((*inputs.shape, self.features), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        config = super().get_config()
        for name in ("dtype", "trainable"):
            config.pop(name)
        return {**config, "rows": self.rows, "features": self.features}

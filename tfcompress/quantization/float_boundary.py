"""The end of a part of a model that stays in float by choice."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfcompress")
class FloatBoundary(keras.layers.Layer):
    """Stands where values leave operations that a scheme excludes and become integers again.

    It changes nothing. The converter would make integer operations of all that stands between
    quantized values; in the exported model the boundary is two negations, of which one is always an
    operation that LiteRT runs in float.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """The inputs."""
        return inputs

    def deploy(self, inputs: Any) -> Any:
        """The inputs, computed in float."""
        return ops.negative(ops.multiply(inputs, -1.0))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

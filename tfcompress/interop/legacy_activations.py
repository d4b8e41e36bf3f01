"""Activation functions that Keras 2 and Keras 3 define differently under the same name."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfcompress", "keras2_hard_sigmoid")
def keras2_hard_sigmoid(x: Any) -> Any:
    """The hard sigmoid of Keras 2: `clip(0.2 * x + 0.5, 0, 1)`.

    That of Keras 3 is `relu6(x + 3) / 6`, with the slope 1/6.

    Args:
        x: Float tensor.

    Returns:
        Tensor of the same shape.
    """
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)

"""Taking masks and wrappers off, with proof that no zero is lost or invented."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.export.deployment import is_quantization_aware
from tfcompress.graph import Node, flatten, keras_internals
from tfcompress.graph.flat import require_keras_model
from tfcompress.graph.rebuild import LayerCopies, copy_variables, rebuild
from tfcompress.pruning import apply_masks
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.float_boundary import FloatBoundary
from tfcompress.quantization.quantized_layer import QuantizedLayer
from tfcompress.quantization.twin import quantized_form


def strip(model: keras.Model) -> keras.Model:
    """Return the plain Keras model inside a pruned or quantization-aware one.

    Masks are applied to the weights. Kernels of a quantization-aware model, also of one that was
    trained with the callback `QuantizationAwareTraining`, hold the values that their integer codes
    stand for; activations are float again. The result needs no tfcompress.

    Args:
        model: A model trained with `tfcompress.callbacks.MagnitudePruning`, made by
            `tfcompress.quantize_aware`, both, or neither. It stays as it is.

    Returns:
        A new model without masks and wrappers. A nested model that was quantization-aware, and a
        subclassed model, come back as one flat Functional model.

    Raises:
        ValueError: If `model` is no Keras model; if applying the masks would change what the model
            computes, because masked weights are no longer zero; or if a subclassed model cannot be
            traced.

    Example:

    ```python
    tfcompress.strip(pruned).save("pruned.keras")
    ```
    """
    require_keras_model(model)
    check_zeros(model)
    model = quantized_form(model)
    if is_quantization_aware(model):
        stripped = _without_wrappers(model)
    elif isinstance(model, keras.Sequential) or _is_functional(model):
        stripped = keras.models.clone_model(model)
        copy_variables(model, stripped)
    else:
        graph = flatten(model)
        copies = LayerCopies(graph)
        stripped = rebuild(graph, lambda node, args, kwargs: copies.copy(node)(*args, **kwargs))
        copies.copy_weights()
    return stripped


def _is_functional(model: keras.Model) -> bool:
    return keras_internals.functional_of(model) is model


def _without_wrappers(model: keras.Model) -> keras.Model:
    graph = flatten(model)
    copies = LayerCopies(graph)
    plain: dict[int, keras.layers.Layer] = {}

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = node.operation
        if isinstance(operation, (ActivationQuantizer, FloatBoundary)):
            return args[0]
        if isinstance(operation, QuantizedLayer):
            if id(operation) not in plain:
                plain[id(operation)] = operation.plain_copy()
            return plain[id(operation)](*args, **kwargs)
        return copies.copy(node)(*args, **kwargs)

    stripped = rebuild(graph, call)
    copies.copy_weights()
    return stripped


def check_zeros(model: keras.Model) -> None:
    """Check that stripping a model would neither lose nor invent a zero.

    Args:
        model: A Keras model, pruned, quantization-aware, both, or neither.

    Raises:
        ValueError: If pruned weights are not zero any more, or a masked weight would come out of
            baking as anything but zero.
    """
    apply_masks(model)
    for wrapper in wrappers_of(model):
        for kernel in wrapper.kernels:
            if kernel.mask is None:
                continue
            pruned = ~ops.convert_to_numpy(kernel.mask)
            lost = int(np.count_nonzero(kernel.baked()[pruned]))
            if lost:
                raise ValueError(
                    f"Stripping '{wrapper.name}' would lose {lost} of {int(pruned.sum())} zeros "
                    f"of '{kernel.variable.path}'."
                )

"""The model handed to the converter: baked weights, fixed ranges, integer-friendly layers."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.graph import Node, flatten, keras_internals
from tfcompress.graph.rebuild import LayerCopies, rebuild
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.quantized_layer import QuantizedLayer, deployed
from tfcompress.quantization.rules.channel_affine import channel_affine


def is_quantization_aware(model: keras.Model) -> bool:
    """Whether a model was made by `quantize_aware`."""
    kinds = (ActivationQuantizer, QuantizedLayer)
    return any(isinstance(layer, kinds) for layer in keras_internals.flat_sublayers(model))


def deployment_model(model: keras.Model) -> keras.Model:
    """Lower a quantization-aware model to what the converter turns into integer operations.

    Kernels hold their quantized values, so that the converter finds the same scales again; the only
    fake quantization left is that of activations, with constant ranges. Layers that LiteRT runs as
    several operations are spelled out.

    Args:
        model: A quantization-aware model whose ranges were learned.

    Returns:
        A Functional model that predicts what `model` predicts.

    Raises:
        ValueError: If a quantizer never saw data.
    """
    graph = flatten(model)
    copies = LayerCopies(graph, dtype="float32")
    quantizer_calls: dict[str, int] = {}
    for wrapper in wrappers_of(model):
        wrapper.deployed_calls = 0

    def call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = node.operation
        if isinstance(operation, ActivationQuantizer):
            tensors = args[0]
            if kwargs.get("follows"):
                return tensors  # the integer kernel rounds by itself
            if not isinstance(tensors, (list, tuple)):
                return _fixed(operation, quantizer_calls)(tensors)
            return [
                _requantized(tensor, operation, quantizer_calls)
                if position in operation.requantized
                else _fixed(operation, quantizer_calls)(tensor)
                for position, tensor in enumerate(tensors)
            ]
        if isinstance(operation, QuantizedLayer):
            operation.deployed_calls += 1
            return operation.rule.deploy(operation, *args, **kwargs)
        return copies.copy(node)(*args, **kwargs)

    lowered = rebuild(graph, call)
    copies.copy_weights()
    return lowered


def _fixed(quantizer: ActivationQuantizer, calls: dict[str, int]) -> ActivationQuantizer:
    number = calls[quantizer.name] = calls.get(quantizer.name, 0) + 1
    return deployed(quantizer, quantizer.name if number == 1 else f"{quantizer.name}_{number}")


def _requantized(tensor: Any, quantizer: ActivationQuantizer, calls: dict[str, int]) -> Any:
    """A value in another range, through a 1x1 depthwise convolution by one.

    The converter refuses one fake quantization on another, and the QUANTIZE operation that it would
    place by itself rounds less exactly than a convolution.
    """
    fixed = _fixed(quantizer, calls)
    return fixed(channel_affine(tensor, 1.0, 0.0, f"{fixed.name}_requantize"))

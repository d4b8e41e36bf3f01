"""The model handed to the converter: baked weights, fixed ranges, integer-friendly layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress.export.conversion import Converted
from tfcompress.export.grid_restoration import restore_grids
from tfcompress.export.precision import float32_layers
from tfcompress.export.sources import LiveModel
from tfcompress.graph import Node, flatten, keras_internals
from tfcompress.graph.rebuild import LayerCopies, rebuild
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import wrappers_of
from tfcompress.quantization.float_boundary import FloatBoundary
from tfcompress.quantization.kernel_grid import KernelGrid
from tfcompress.quantization.quantized_layer import QuantizedLayer, deployed
from tfcompress.quantization.rules.channel_affine import apart


class DeployedModel(LiveModel):
    """A lowered model whose weights get the grids of its reference in the converted file."""

    def convert(self, output: Path, **settings: Any) -> Converted:
        """Convert to `output`; `settings` are those of `convert_saved`."""
        done = super().convert(output, **settings)
        # Not before the reference has answered: weights that are not finite have no grid.
        restore_grids(output, restored_grids(self.reference))
        return done


def restored_grids(model: keras.Model) -> tuple[KernelGrid, ...]:
    """The kernels of a quantization-aware model whose grids the converter would not find."""
    grids = (grid for wrapper in wrappers_of(model) for grid in wrapper.kernel_grids())
    return tuple(grid for grid in grids if not grid.is_converters)


def is_quantization_aware(model: keras.Model) -> bool:
    """Whether a model was made by `quantize_aware`."""
    kinds = (ActivationQuantizer, QuantizedLayer)
    return any(isinstance(layer, kinds) for layer in keras_internals.flat_sublayers(model))


def deployment_model(model: keras.Model, shapes: Sequence[Sequence[int]]) -> keras.Model:
    """Lower a quantization-aware model to what the converter turns into integer operations.

    Kernels hold their quantized values, so that the converter finds the same scales again (where it
    would not, `restored_grids` names those that `DeployedModel` puts into the file); the only
    fake quantization left is that of activations, with constant ranges. Layers that LiteRT runs as
    several operations are spelled out.

    Args:
        model: A quantization-aware model whose ranges were learned.
        shapes: Of each input the shape that the file will have, batch included. All but the batch
            are fixed, since steps can be spelled out only if their number is known.

    Returns:
        A Functional model that predicts what `model` predicts for inputs of these shapes.

    Raises:
        ValueError: If a quantizer never saw data.
    """
    graph = flatten(model)
    for tensor, shape in zip(graph.inputs, shapes, strict=True):
        tensor.shape = (tensor.shape[0], *shape[1:])
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
        if isinstance(operation, FloatBoundary):
            return operation.deploy(*args)
        if isinstance(operation, QuantizedLayer):
            operation.deployed_calls += 1
            operation.ranges_before = sum(quantizer_calls.values()) + 1
            quantizer_calls[operation.deployed_name] = len(operation.inner)
            outputs = operation.rule.deploy(operation, *args, **kwargs)
            keras_internals.pass_mask(operation, args[0], outputs)
            return outputs
        given = keras.tree.flatten((args, kwargs))
        return _without_loops(copies.copy(node), given)(*args, **kwargs)

    # Under a global policy of half precision new layers would compute in that.
    with float32_layers():
        lowered = rebuild(graph, call)
    copies.copy_weights()
    return lowered


def _without_loops(operation: Any, arguments: Sequence[Any]) -> Any:
    """A recurrent layer that stays float, step by step: the converter may crash on its loop."""
    tensors = [value for value in arguments if isinstance(value, keras.KerasTensor)]
    if isinstance(operation, keras.layers.Layer) and None not in tensors[0].shape[1:]:
        for layer in keras_internals.flat_sublayers(operation):
            if isinstance(layer, keras.layers.RNN):
                layer.unroll = True
    return operation


def _fixed(quantizer: ActivationQuantizer, calls: dict[str, int]) -> ActivationQuantizer:
    number = calls[quantizer.name] = calls.get(quantizer.name, 0) + 1
    return deployed(quantizer, quantizer.name if number == 1 else f"{quantizer.name}_{number}")


def _requantized(tensor: Any, quantizer: ActivationQuantizer, calls: dict[str, int]) -> Any:
    """A value in another range."""
    fixed = _fixed(quantizer, calls)
    return fixed(apart(tensor, sum(calls.values()), f"{fixed.name}_requantize"))

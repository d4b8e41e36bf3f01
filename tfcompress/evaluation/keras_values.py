"""The values in the middle of a Keras model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress.evaluation.tensor_matching import Point
from tfcompress.graph import Graph, Tensor, flatten
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.graph.rebuild import fill
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.placement import Placement


class KerasValues:
    """Runs a model operation by operation and keeps the tensors worth comparing.

    Those are the outputs of the quantizers of a quantization-aware model, and of any other all
    float tensors that LiteRT does not fuse away.

    Args:
        model: A built Keras model.

    Attributes:
        specs: `(name, shape without the batch, dtype)` of each input.
        points: What is kept, in the order of the computation.
    """

    def __init__(self, model: keras.Model) -> None:
        self._graph: Graph = flatten(model)
        self.specs = [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]
        chosen = self._quantized() or self._unfused()
        self._tensors = [tensor for tensor, _ in chosen]
        self.points = [point for _, point in chosen]

    def _quantized(self) -> list[tuple[Tensor, Point]]:
        chosen = []
        for node in self._graph.nodes:
            quantizer = node.operation
            if not isinstance(quantizer, ActivationQuantizer) or node.kwargs.get("follows"):
                continue
            for number, (source, output) in enumerate(zip(node.inputs, node.outputs, strict=True)):
                if source.producer and isinstance(source.producer.operation, ActivationQuantizer):
                    source = source.producer.inputs[source.index]
                name, kind = source.name, "Input"
                if source.producer is not None:
                    name, kind = source.producer.name, _kind(source.producer.operation)
                if number in quantizer.requantized:
                    name += ", requantized"
                chosen.append((output, Point(name, kind, quantizer.range)))
        return chosen

    def _unfused(self) -> list[tuple[Tensor, Point]]:
        fused = Placement(self._graph).fused
        chosen = []
        for node in self._graph.nodes:
            aliases, first = [node.name], node
            while first.inputs and first.inputs[0] in fused and first.inputs[0].producer:
                first = first.inputs[0].producer
                aliases.append(first.name)
            chosen += [
                (output, Point(node.name, node.type_name, aliases=tuple(aliases)))
                for output in node.outputs
                if output.is_float and output not in fused
            ]
        return chosen

    def run(self, samples: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The tensors' values, by position in `points`.

        Args:
            samples: Arrays of shape (n, …) by input name.
        """
        values: dict[Tensor, Any] = {
            tensor: keras.ops.convert_to_tensor(samples[name], tensor.dtype)
            for tensor, (name, _, _) in zip(self._graph.inputs, self.specs, strict=True)
        }
        for node in self._graph.nodes:
            outputs = node.operation(*fill(node.args, values), **fill(node.kwargs, values))
            values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))
        return {
            number: keras.ops.convert_to_numpy(keras.ops.cast(values[tensor], "float32"))
            for number, tensor in enumerate(self._tensors)
        }


def _kind(operation: Any) -> str:
    return type(getattr(operation, "layer", operation)).__name__

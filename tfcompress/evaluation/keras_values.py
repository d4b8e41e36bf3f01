"""The values in the middle of a Keras model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tfcompress.evaluation.tensor_matching import Point
from tfcompress.graph import Graph, Node, Tensor, flatten
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.graph.rebuild import fill
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.quantized_layer import QuantizedLayer


class KerasValues:
    """Runs a model operation by operation and keeps the tensors worth comparing.

    Those are the outputs of the quantizers of a quantization-aware model, those inside its layers
    too, and of any other all float tensors that LiteRT does not fuse away.

    Args:
        model: A built Keras model.

    Attributes:
        specs: `(name, shape without the batch, dtype)` of each input.
        points: What is kept, in the order of the computation. Those inside of layers come with the
            first `run`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._graph: Graph = flatten(model)
        self.specs = sample_specs(model)
        chosen = self._quantized() or self._unfused()
        self._places: dict[Any, int] = {tensor: i for i, (tensor, _) in enumerate(chosen)}
        self.points = [point for _, point in chosen]
        self._ran = False

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
        values: dict[Any, Any] = {
            tensor: keras.ops.convert_to_tensor(samples[name], tensor.dtype)
            for tensor, (name, _, _) in zip(self._graph.inputs, self.specs, strict=True)
        }
        inside: dict[Any, Any] = {}
        for node in self._graph.nodes:
            with _watched(node, inside):
                outputs = node.operation(*fill(node.args, values), **fill(node.kwargs, values))
            values.update(zip(node.outputs, keras.tree.flatten(outputs), strict=True))
        if not self._ran:
            self._ran = True
            self._add_points(inside)
        values.update(inside)
        return {
            number: keras.ops.convert_to_numpy(keras.ops.cast(values[place], "float32"))
            for place, number in self._places.items()
        }

    def _add_points(self, inside: Mapping[Any, Any]) -> None:
        """Put what was quantized inside of a layer in front of the layer's output."""
        order = {node: number for number, node in enumerate(self._graph.nodes)}
        found = [
            (order[place.producer], place, point)
            for place, point in zip(self._places, self.points, strict=True)
        ]
        for place in inside:
            node, name, call = place
            label = f"{node.name}/{name}" + (f" ({call + 1})" if call else "")
            ends = node.operation.inner[name].range
            point = Point(label, _kind(node.operation), ends, inside=True)
            found.append((order[node], place, point))
        found.sort(key=lambda entry: entry[0])
        self._places = {place: number for number, (_, place, _) in enumerate(found)}
        self.points = [point for _, _, point in found]


@contextmanager
def _watched(node: Node, found: dict[Any, Any]) -> Iterator[None]:
    """Note what the quantizers inside of a layer return, by `(node, name, number of the call)`."""
    inner = node.operation.inner if isinstance(node.operation, QuantizedLayer) else {}
    calls: dict[str, int] = {}

    def watch(name: str, quantizer: ActivationQuantizer) -> None:
        original = quantizer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            number = calls[name] = calls.get(name, -1) + 1
            if not isinstance(outputs, list):
                found[node, name, number] = outputs
            return outputs

        # Not by setattr: a built layer tracks what is assigned to it.
        object.__setattr__(quantizer, "call", call)

    try:
        for name, quantizer in inner.items():
            watch(name, quantizer)
        yield
    finally:
        for quantizer in inner.values():
            quantizer.__dict__.pop("call", None)


def _kind(operation: Any) -> str:
    return type(getattr(operation, "layer", operation)).__name__

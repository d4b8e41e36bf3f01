"""A float model and its quantized form, run side by side on calibration samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.graph import Graph, Node, Tensor, flatten
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.graph.rebuild import fill
from tfcompress.quantization.quantized_layer import QuantizedLayer
from tfcompress.quantization.rules import Role, rule_of

_BATCH = 32


class GraphValues:
    """The tensors of a model for all samples, computed node by node and dropped after their use.

    Args:
        model: A Functional model.
        samples: Arrays of shape (n, ...) by input name.

    Attributes:
        graph: The model's graph.
    """

    def __init__(self, model: keras.Model, samples: Mapping[str, np.ndarray]) -> None:
        self.graph: Graph = flatten(model)
        specs = model_inputs(model)
        fixed = specs[0][1][0]
        size = fixed or _BATCH
        count = len(next(iter(samples.values())))
        # A model of a fixed batch takes no rest of a batch.
        starts = range(0, count - size + 1 if fixed else count, size)
        self._values: dict[Tensor, list[Any]] = {
            tensor: [
                keras.ops.convert_to_tensor(samples[name][start : start + size], tensor.dtype)
                for start in starts
            ]
            for tensor, (name, _, _) in zip(self.graph.inputs, specs, strict=True)
        }
        self._batches = len(starts)
        self._readers = Counter(t for node in self.graph.nodes for t in node.inputs)
        self._readers.update(self.graph.outputs)

    def of(self, tensor: Tensor) -> list[Any]:
        """The values of a tensor that was computed and is still to be read, batch by batch."""
        return self._values[tensor]

    def run(self, node: Node) -> None:
        """Compute the outputs of a node whose inputs are known."""
        for output in node.outputs:
            self._values[output] = []
        for batch in range(self._batches):
            values = {tensor: self._values[tensor][batch] for tensor in node.inputs}
            outputs = node.operation(*fill(node.args, values), **fill(node.kwargs, values))
            for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                self._values[tensor].append(value)
        for tensor in node.inputs:
            self._readers[tensor] -= 1
            if not self._readers[tensor]:
                del self._values[tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One quantized layer, with all before it computed in both models.

    Attributes:
        wrapper: The quantized layer.
        layer: Its counterpart in the float model.
        node: The call of the wrapper.
        follower: The activation right behind, which LiteRT fuses with the layer, or None.
        inputs: What the wrapper gets, batch by batch.
        float_inputs: What the float layer gets.
        obstacle: Why algorithms that need one layer with one input leave it alone, or empty.
    """

    wrapper: QuantizedLayer
    layer: keras.layers.Layer
    node: Node
    follower: keras.Operation | None
    inputs: list[Any]
    float_inputs: list[Any]
    obstacle: str


def quantized_layers(
    model: keras.Model, quantized: keras.Model, samples: Mapping[str, np.ndarray]
) -> Iterator[Step]:
    """Visit the quantized layers in the order of the computation.

    What the visitor changes in a layer is in what the layers after it get: each sees inputs as the
    integer network will compute them. One pass over all samples, whatever the depth.

    Args:
        model: The float model.
        quantized: The model that `quantize_aware` made of it.
        samples: Arrays of shape (n, ...) by input name.

    Yields:
        One step for each call of a layer with quantized kernels.
    """
    floats, integers = GraphValues(model, samples), GraphValues(quantized, samples)
    nodes = {node.name: node for node in floats.graph.nodes}
    calls = Counter(id(node.operation) for node in integers.graph.nodes)
    for node in integers.graph.nodes:
        counterpart = nodes.get(node.name)
        if isinstance(node.operation, QuantizedLayer) and counterpart is not None:
            wrapper = node.operation
            if wrapper.rule.kernels(wrapper.layer):
                yield _step(node, counterpart, floats, integers, calls[id(wrapper)])
        if counterpart is not None:
            floats.run(counterpart)
        integers.run(node)


def _step(
    node: Node, counterpart: Node, floats: GraphValues, integers: GraphValues, calls: int
) -> Step:
    obstacle = ""
    if calls > 1:
        obstacle = f"is called {calls} times"
    elif len(node.inputs) != 1 or len(node.args) != 1 or any(node.kwargs.values()):
        obstacle = "takes several inputs"
    return Step(
        wrapper=node.operation,
        layer=counterpart.operation,
        node=node,
        follower=_follower(integers.graph, node),
        inputs=integers.of(node.inputs[0]),
        float_inputs=floats.of(counterpart.inputs[0]),
        obstacle=obstacle,
    )


def _follower(graph: Graph, node: Node) -> keras.Operation | None:
    """An operation without quantizer between, which only an activation that fuses can be."""
    if len(node.outputs) != 1:
        return None
    reader = graph.only_consumer(node.outputs[0])
    if reader is None or len(reader.inputs) != 1:
        return None
    fuses = rule_of(reader.operation).role(reader) is Role.ACTIVATION
    return reader.operation if fuses else None

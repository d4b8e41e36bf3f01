"""Other integer types at the inputs and outputs of a quantized file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.export.flatbuffer_editing import quantizing, repacked, unpacked

# From the codes of int8 to those of uint8.
_SHIFT = 128


def with_uint8_edges(content: bytes) -> bytes:
    """Let an int8 file take and give uint8.

    As TensorFlow's converter does it: an operator QUANTIZE stands behind every int8 input and in
    front of every int8 output, and adds 128 to the codes or takes it off.

    Args:
        content: A TFLite file with int8 inputs and outputs.

    Returns:
        The new file. Inputs and outputs of other types stay what they are.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    graph = model.subgraphs[0]
    heads, tails = [], []
    for place, index in _edges(graph, "inputs", schema):
        outer = _twin(graph, index, schema)
        heads.append(quantizing(model, outer, index))
        graph.inputs[place] = outer
        _redirect(model, "inputs", index, outer)
    for place, index in _edges(graph, "outputs", schema):
        outer = _twin(graph, index, schema)
        tails.append(quantizing(model, index, outer))
        graph.outputs[place] = outer
        _redirect(model, "outputs", index, outer)
    graph.operators = [*heads, *graph.operators, *tails]
    return repacked(model)


def _edges(graph: Any, side: str, schema: Any) -> Iterator[tuple[int, int]]:
    """Position and tensor of every int8 input or output."""
    setattr(graph, side, [int(index) for index in getattr(graph, side)])
    for place, index in enumerate(list(getattr(graph, side))):
        if graph.tensors[index].type == schema.TensorType.INT8:
            yield place, index


def _twin(graph: Any, index: int, schema: Any) -> int:
    """A uint8 tensor with the name and the values of an int8 one, which gets another name."""
    inner = graph.tensors[index]
    outer = copy.deepcopy(inner)
    outer.type = schema.TensorType.UINT8
    outer.quantization.zeroPoint = np.asarray(inner.quantization.zeroPoint, "int64") + _SHIFT
    inner.name = inner.name + b"_int8"
    graph.tensors.append(outer)
    return len(graph.tensors) - 1


def _redirect(model: Any, side: str, before: int, after: int) -> None:
    """Let the signatures of the main graph name another tensor."""
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            for entry in getattr(signature, side) or ():
                if int(entry.tensorIndex) == before:
                    entry.tensorIndex = after

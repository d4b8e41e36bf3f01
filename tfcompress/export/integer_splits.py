"""Splits that the converter leaves in float although integers go in and come out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.export.flatbuffer_editing import operator_code, operator_kind, repacked, unpacked

# The version of SPLIT and SPLIT_V that moves int8 values.
_INTEGER_VERSION = 2


def with_integer_splits(content: bytes) -> bytes:
    """Let splits move integers.

    TensorFlow's quantizer dequantizes what goes into a SPLIT, and quantizes what comes out, when
    one of the outputs is not used, as in the first step of an LSTM, whose forget gate has nothing
    to forget. A split computes nothing, so it can move the integers themselves.

    Args:
        content: A TFLite file.

    Returns:
        The changed file; the same one if it has no such split.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    builtin = schema.BuiltinOperator
    data_inputs = {builtin.SPLIT: 1, builtin.SPLIT_V: 0}
    changed = 0
    for graph in model.subgraphs:
        for split in graph.operators or ():
            kind = operator_kind(model, split)
            if kind in data_inputs:
                place = data_inputs[kind]
                source = _integers_behind(model, graph, int(split.inputs[place]), schema)
                if source is not None and _gives_integers(model, graph, split, builtin.QUANTIZE):
                    split.inputs[place] = source
                    split.opcodeIndex = operator_code(model, kind, _INTEGER_VERSION)
                    for index in split.outputs:
                        _take_type(graph.tensors[index], graph.tensors[source])
                    changed += 1
        _drop_idle(model, graph, builtin)
    return repacked(model) if changed else content


def _integers_behind(model: Any, graph: Any, index: int, schema: Any) -> int | None:
    """The int8 tensor that a float one was made of."""
    for operator in graph.operators:
        if index in _tensors(operator.outputs):
            if operator_kind(model, operator) != schema.BuiltinOperator.DEQUANTIZE:
                return None
            source = int(operator.inputs[0])
            return source if graph.tensors[source].type == schema.TensorType.INT8 else None
    return None


def _tensors(side: Any) -> Any:
    return () if side is None else side


def _readers(graph: Any, index: int) -> Iterator[Any]:
    return (operator for operator in graph.operators if index in _tensors(operator.inputs))


def _gives_integers(model: Any, graph: Any, split: Any, kind: int) -> bool:
    """Whether all that a split gives is quantized behind it."""
    return all(
        index not in graph.outputs
        and all(operator_kind(model, reader) == kind for reader in _readers(graph, index))
        for index in split.outputs
    )


def _take_type(tensor: Any, model: Any) -> None:
    tensor.type = model.type
    tensor.quantization = copy.deepcopy(model.quantization)


def _drop_idle(model: Any, graph: Any, builtin: Any) -> None:
    """Remove conversions that nothing reads, and those between equal integers."""
    for operator in list(graph.operators or ()):
        kind = operator_kind(model, operator)
        if kind not in (builtin.QUANTIZE, builtin.DEQUANTIZE):
            continue
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        if kind == builtin.QUANTIZE and _same_grid(graph, operator):
            for reader in _readers(graph, target):
                reader.inputs[np.asarray(reader.inputs) == target] = source
        if target not in graph.outputs and next(_readers(graph, target), None) is None:
            graph.operators.remove(operator)


def _same_grid(graph: Any, operator: Any) -> bool:
    source, target = (graph.tensors[side[0]] for side in (operator.inputs, operator.outputs))
    return source.type == target.type and all(
        np.array_equal(getattr(source.quantization, name), getattr(target.quantization, name))
        for name in ("scale", "zeroPoint")
    )

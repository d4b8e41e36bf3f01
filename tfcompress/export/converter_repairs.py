"""What TensorFlow's quantizer gets wrong in a file that can be put right there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.export.flatbuffer_editing import (
    operator_code,
    operator_kind,
    quantizing,
    repacked,
    unpacked,
)

# The version of SPLIT and SPLIT_V that moves int8 values.
_INTEGER_SPLIT = 2

# The version of MUL that multiplies int8 values.
_INTEGER_MUL = 2

# Positions in UNIDIRECTIONAL_SEQUENCE_LSTM: of the hidden state among the inputs, and of what it is
# in every step among the tensors inside.
_STATE, _HIDDEN = 18, 4


def repaired(content: bytes) -> bytes:
    """Put a converted file right.

    A split of which one output is not used, as in the first step of an LSTM, whose forget gate has
    nothing to forget, is left in float between integers. A split computes nothing, so it can move
    the integers themselves.

    A negation or a square, as in normalizations, is left in float between integers, too. It becomes
    a product with -1, or with itself.

    An LSTM operator computes its outputs in the scale of its hidden state, but where they go into a
    concatenation they, and the state that is kept, are given other ones. They get the right one,
    and are requantized behind the operator.

    Args:
        content: A TFLite file.

    Returns:
        The changed file; the same one if nothing is to be repaired.
    """
    model = unpacked(content)
    changes = [
        change(model, graph)
        for graph in model.subgraphs
        for change in (
            _let_splits_move_integers,
            _multiply_integers,
            _give_lstm_outputs_their_scale,
        )
    ]
    return repacked(model) if any(changes) else content


def _let_splits_move_integers(model: Any, graph: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    builtin = schema.BuiltinOperator
    data_inputs = {builtin.SPLIT: 1, builtin.SPLIT_V: 0}
    changed = False
    for split in graph.operators or ():
        kind = operator_kind(model, split)
        if kind not in data_inputs:
            continue
        place = data_inputs[kind]
        source = _integers_behind(model, graph, int(split.inputs[place]), schema)
        if source is not None and _gives_integers(model, graph, split, builtin.QUANTIZE):
            split.inputs[place] = source
            split.opcodeIndex = operator_code(model, kind, _INTEGER_SPLIT)
            for index in split.outputs:
                _take_type(graph.tensors[index], graph.tensors[source])
            changed = True
    if changed:
        _drop_idle(model, graph, builtin)
    return changed


def _multiply_integers(model: Any, graph: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    builtin = schema.BuiltinOperator
    changed = False
    for operator in graph.operators or ():
        kind = operator_kind(model, operator)
        if kind not in (builtin.NEG, builtin.SQUARE):
            continue
        source = _integers_behind(model, graph, int(operator.inputs[0]), schema)
        result = int(operator.outputs[0])
        reader = next(_readers(graph, result), None)
        integers = _gives_integers(model, graph, operator, builtin.QUANTIZE)
        if source is None or reader is None or not integers:
            continue
        _take_type(graph.tensors[result], graph.tensors[reader.outputs[0]])
        factor = source if kind == builtin.SQUARE else _minus_one(model, graph, schema)
        operator.inputs = np.array([source, factor], np.int32)
        operator.opcodeIndex = operator_code(model, builtin.MUL, _INTEGER_MUL)
        operator.builtinOptionsType = schema.BuiltinOptions.MulOptions
        operator.builtinOptions = schema.MulOptionsT()
        changed = True
    if changed:
        _drop_idle(model, graph, builtin)
    return changed


def _minus_one(model: Any, graph: Any, schema: Any) -> int:
    """A new constant of int8."""
    buffer = schema.BufferT()
    buffer.data = np.array([-1], np.int8).view(np.uint8)
    model.buffers.append(buffer)
    constant = schema.TensorT()
    constant.name, constant.shape = b"minus_one", np.zeros(0, np.int32)
    constant.type, constant.buffer = schema.TensorType.INT8, len(model.buffers) - 1
    constant.quantization = schema.QuantizationParametersT()
    constant.quantization.scale = np.ones(1, np.float32)
    constant.quantization.zeroPoint = np.zeros(1, np.int64)
    graph.tensors.append(constant)
    return len(graph.tensors) - 1


def _give_lstm_outputs_their_scale(model: Any, graph: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    operators = []
    for operator in graph.operators or ():
        operators.append(operator)
        if operator_kind(model, operator) != schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
            continue
        given = int(operator.outputs[0])
        is_int8 = graph.tensors[given].type == schema.TensorType.INT8
        hidden = graph.tensors[operator.intermediates[_HIDDEN]] if is_int8 else None
        if hidden is not None and not _same_grid(hidden, graph.tensors[given]):
            own = copy.deepcopy(graph.tensors[given])
            own.name += b"_own_scale"
            for tensor in (own, graph.tensors[operator.inputs[_STATE]]):
                _take_type(tensor, hidden)
            graph.tensors.append(own)
            operator.outputs[0] = len(graph.tensors) - 1
            operators.append(quantizing(model, len(graph.tensors) - 1, given))
    changed = len(operators) > len(graph.operators or ())
    graph.operators = operators
    return changed


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


def _gives_integers(model: Any, graph: Any, operator: Any, kind: int) -> bool:
    """Whether all that an operator gives is quantized behind it."""
    return all(
        index not in graph.outputs
        and all(operator_kind(model, reader) == kind for reader in _readers(graph, index))
        for index in operator.outputs
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
        same = _same_grid(graph.tensors[source], graph.tensors[target])
        if kind == builtin.QUANTIZE and same:
            for reader in _readers(graph, target):
                reader.inputs[np.asarray(reader.inputs) == target] = source
        if target not in graph.outputs and next(_readers(graph, target), None) is None:
            graph.operators.remove(operator)


def _same_grid(one: Any, other: Any) -> bool:
    return one.type == other.type and all(
        np.array_equal(getattr(one.quantization, name), getattr(other.quantization, name))
        for name in ("scale", "zeroPoint")
    )

"""Changing a TFLite flatbuffer: the file as mutable objects, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

# What these tensors hold is no array that could be an output.
_OPAQUE = ("RESOURCE", "VARIANT", "STRING")


def unpacked(content: bytes) -> Any:
    """The content of a TFLite file as a `ModelT` of LiteRT's schema, to be changed in place."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))


def repacked(model: Any) -> bytes:
    """The TFLite file of a `ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operator_kind(model: Any, operator: Any) -> int:
    """The `BuiltinOperator` that an operator of a `ModelT` is."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Old files have the number in the field that later got too small.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_code(model: Any, kind: int, version: int = 1) -> int:
    """Number of a kind of operator in a file, which is added or raised to a version if need be.

    Args:
        model: A `ModelT`.
        kind: A `BuiltinOperator`.
        version: Least version of the operator.
    """
    from ai_edge_litert import schema_py_generated as schema

    for number, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind:
            code.version = max(code.version, version)
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = kind
    # Readers of old take only codes below 127, which stands for what they do not know.
    code.deprecatedBuiltinCode = min(kind, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def quantizing(model: Any, source: int, target: int) -> Any:
    """An operator, not yet in a graph, that gives a tensor the type and scale of another.

    Args:
        model: A `ModelT`, which gets the kind of operator.
        source: Number of the tensor to read.
        target: Number of the tensor to write.

    Returns:
        An `OperatorT`.
    """
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.QUANTIZE)
    operator.inputs = np.array([source], "int32")
    operator.outputs = np.array([target], "int32")
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    return operator


def exposed(content: bytes) -> bytes:
    """A file that also gives out what every operator of its main graph computes.

    A delegate such as XNNPACK keeps no values in the middle of what it runs, but writes the outputs
    of the graph. The numbers of the tensors and the signature stay what they were.

    Args:
        content: A TFLite file.

    Returns:
        The changed file.
    """
    from ai_edge_litert import schema_py_generated as schema

    opaque = {getattr(schema.TensorType, name) for name in _OPAQUE}
    model = unpacked(content)
    graph = model.subgraphs[0]
    outputs = [int(index) for index in graph.outputs]
    for operator in graph.operators or ():
        for index in map(int, () if operator.outputs is None else operator.outputs):
            if index not in outputs and graph.tensors[index].type not in opaque:
                outputs.append(index)
    graph.outputs = outputs
    return repacked(model)

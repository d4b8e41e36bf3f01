"""Weights of a float file as small integers that LiteRT unpacks when the file is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.export.grid_restoration import packed

# Axis of the output channels in the weights of an operator; the weights are its second input.
_CHANNEL_AXES = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
_WEIGHT = 1

# The version of DEQUANTIZE that reads packed 4-bit weights with a scale for each channel.
_DEQUANTIZE_VERSION = 6

# Smaller weights are not worth an operator and scales of their own.
_SMALLEST = 256


def store_weights(content: bytes, bits: int = 4) -> bytes:
    """Store the weights of convolutions and dense layers as integers, one scale for each channel.

    Every operator stays in float; a DEQUANTIZE operator in front of it unpacks its weights, which
    LiteRT does once. The scales are those of least squared error.

    Args:
        content: A float TFLite file.
        bits: 4, which are packed, or 8. Defaults to 4.

    Returns:
        The new file.

    Raises:
        ValueError: If `bits` is neither, or the file has no weights that could be stored so.
    """
    if bits not in (4, 8):
        raise ValueError(f"Weights are stored in 4 or 8 bits. Received: {bits!r}")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    stored = 0
    for graph in model.subgraphs:
        done: set[int] = set()
        operators = []
        for operator in graph.operators or ():
            code = model.operatorCodes[operator.opcodeIndex]
            axis = _CHANNEL_AXES.get(names[max(code.builtinCode, code.deprecatedBuiltinCode)])
            if axis is not None:
                index = int(operator.inputs[_WEIGHT])
                if index not in done and _is_stored_float(model, graph, index, schema):
                    operators.append(_unpacking(model, graph, index, axis, bits, schema))
                    done.add(index)
            operators.append(operator)
        graph.operators = operators
        stored += len(done)
    if not stored:
        raise ValueError(
            f"The file has no convolution or dense layer with {_SMALLEST} constant float weights "
            "or more, so there is nothing to store in 4 bits."
        )
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    import flatbuffers

    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _is_stored_float(model: Any, graph: Any, index: int, schema: Any) -> bool:
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    return (
        tensor.type == schema.TensorType.FLOAT32
        and data is not None
        and int(np.prod(tensor.shape)) >= _SMALLEST
    )


def _unpacking(model: Any, graph: Any, index: int, axis: int, bits: int, schema: Any) -> Any:
    """Make a tensor the output of a new operator that unpacks it, and return the operator."""
    from keras import ops

    from tfcompress.quantization.weight_scale import weight_scale

    tensor = graph.tensors[index]
    values = np.asarray(model.buffers[tensor.buffer].data).view("float32").reshape(tensor.shape)
    scale = ops.convert_to_numpy(weight_scale(values, (axis,), bits, "mse"))
    largest = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint(values / scale), -largest, largest).astype(np.int8)
    buffer = schema.BufferT()
    buffer.data = packed(codes) if bits == 4 else codes.view(np.uint8).ravel()
    model.buffers.append(buffer)
    weight = schema.TensorT()
    weight.name = tensor.name + b"_stored"
    weight.shape = tensor.shape
    weight.type = schema.TensorType.INT4 if bits == 4 else schema.TensorType.INT8
    weight.buffer = len(model.buffers) - 1
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale = scale.ravel().astype("float32")
    weight.quantization.zeroPoint = np.zeros(scale.size, "int64")
    weight.quantization.quantizedDimension = axis
    graph.tensors.append(weight)
    # A tensor that is computed has the empty buffer. Other tensors may share the old one.
    tensor.buffer = 0
    operator = schema.OperatorT()
    operator.opcodeIndex = _dequantize_code(model, schema)
    operator.inputs = np.array([len(graph.tensors) - 1], "int32")
    operator.outputs = np.array([index], "int32")
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return operator


def _dequantize_code(model: Any, schema: Any) -> int:
    wanted = schema.BuiltinOperator.DEQUANTIZE
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == wanted:
            code.version = max(code.version, _DEQUANTIZE_VERSION)
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = wanted
    code.version = _DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1

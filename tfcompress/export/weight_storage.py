"""Weights of a float file as smaller numbers that LiteRT unpacks when the file is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.export.flatbuffer_editing import operator_code, operator_kind, repacked, unpacked
from tfcompress.export.grid_restoration import packed

# Axis of the output channels in the weights of an operator; the weights are its second input.
_CHANNEL_AXES = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
_WEIGHT = 1

# Position of the weights in what can also be stored in 16 bits, where no scale is needed.
_TABLES = {"BATCH_MATMUL": 1, "EMBEDDING_LOOKUP": 1, "GATHER": 0}

_BITS = (4, 8, 16)

# The versions of DEQUANTIZE that read half floats, and 4-bit weights with scales for channels.
_DEQUANTIZE_VERSIONS = {4: 6, 8: 6, 16: 3}

# Smaller weights are not worth an operator and scales of their own.
_SMALLEST = 256


def store_weights(content: bytes, bits: int = 4) -> bytes:
    """Store the weights of convolutions and dense layers in fewer bits.

    Every operator stays in float; a DEQUANTIZE operator in front of it unpacks its weights, which
    LiteRT does once. Integers have one scale for each channel, that of least squared error; 16 bits
    are half floats.

    Args:
        content: A float TFLite file.
        bits: 4, which are packed, 8, or 16. Defaults to 4.

    Returns:
        The new file.

    Raises:
        ValueError: If `bits` is none of these, a weight is too large for a half float, or the file
            has no weights that could be stored so.
    """
    if bits not in _BITS:
        raise ValueError(f"Weights are stored in 4, 8 or 16 bits. Received: {bits!r}")
    storage = _Storage(content, bits)
    if not storage.run():
        raise ValueError(
            f"The file has no convolution or dense layer with {_SMALLEST} constant float weights "
            f"or more, so there is nothing to store in {bits} bits."
        )
    return storage.content()


class _Storage:
    """Rewrites the weights of one file."""

    def __init__(self, content: bytes, bits: int) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._bits = bits
        self._model = unpacked(content)
        self._names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
        # New buffer and scales, by old buffer and axis: tensors that shared one go on to.
        self._stored: dict[tuple[int, int], tuple[int, np.ndarray]] = {}

    def run(self) -> int:
        """Rewrite what can be, and return how many tensors that was."""
        count = 0
        for graph in self._model.subgraphs:
            done: set[int] = set()
            operators = []
            for operator in graph.operators or ():
                index, axis = self._weight_of(operator)
                if index is not None and index not in done and self._is_float(graph, index):
                    operators.append(self._unpacking(graph, index, axis))
                    done.add(index)
                operators.append(operator)
            graph.operators = operators
            count += len(done)
        return count

    def content(self) -> bytes:
        """The file, without the values that are no longer used."""
        model = self._model
        used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
        used |= {entry.buffer for entry in model.metadata or ()}
        for number, buffer in enumerate(model.buffers):
            if number not in used:
                buffer.data = None
        return repacked(model)

    def _weight_of(self, operator: Any) -> tuple[int | None, int]:
        """Number of the tensor with the weights of an operator, and the axis of its channels."""
        name = self._names.get(operator_kind(self._model, operator), "")
        if name in _CHANNEL_AXES:
            return int(operator.inputs[_WEIGHT]), _CHANNEL_AXES[name]
        if name in _TABLES and self._bits == 16:
            return int(operator.inputs[_TABLES[name]]), 0
        return None, 0

    def _is_float(self, graph: Any, index: int) -> bool:
        tensor = graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        return (
            tensor.type == self._schema.TensorType.FLOAT32
            and data is not None
            and int(np.prod(tensor.shape)) >= _SMALLEST
        )

    def _unpacking(self, graph: Any, index: int, axis: int) -> Any:
        """Make a tensor the output of a new operator that unpacks it, and return the operator."""
        schema, tensor = self._schema, graph.tensors[index]
        buffer, scale = self._reduced(tensor, axis)
        weight = schema.TensorT()
        weight.name = tensor.name + b"_stored"
        weight.shape = tensor.shape
        kinds = schema.TensorType
        weight.type = {4: kinds.INT4, 8: kinds.INT8, 16: kinds.FLOAT16}[self._bits]
        weight.buffer = buffer
        if len(scale):
            weight.quantization = schema.QuantizationParametersT()
            weight.quantization.scale = scale
            weight.quantization.zeroPoint = np.zeros(len(scale), "int64")
            weight.quantization.quantizedDimension = axis
        graph.tensors.append(weight)
        # A tensor that is computed has the empty buffer. Other tensors may share the old one.
        tensor.buffer = 0
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(
            self._model, schema.BuiltinOperator.DEQUANTIZE, _DEQUANTIZE_VERSIONS[self._bits]
        )
        operator.inputs = np.array([len(graph.tensors) - 1], "int32")
        operator.outputs = np.array([index], "int32")
        operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        operator.builtinOptions = schema.DequantizeOptionsT()
        return operator

    def _reduced(self, tensor: Any, axis: int) -> tuple[int, np.ndarray]:
        """The number of a buffer with the weights in fewer bits, and their scales."""
        key = tensor.buffer, axis
        if key not in self._stored:
            data = np.asarray(self._model.buffers[tensor.buffer].data)
            values = data.view("float32").reshape(tensor.shape)
            buffer = self._schema.BufferT()
            buffer.data, scale = self._reduce(values, axis, tensor.name.decode())
            self._model.buffers.append(buffer)
            self._stored[key] = len(self._model.buffers) - 1, scale
        return self._stored[key]

    def _reduce(self, values: np.ndarray, axis: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        if self._bits == 16:
            largest = float(np.abs(values).max())
            if largest > float(np.finfo("float16").max):
                raise ValueError(
                    "A half float holds magnitudes up to 65504: keep the file in float32. "
                    f"Received: {largest:.4g} in '{name}'"
                )
            return values.astype("float16").view(np.uint8).ravel(), np.empty(0, "float32")
        from keras import ops

        from tfcompress.quantization.weight_scale import weight_scale

        scale = ops.convert_to_numpy(weight_scale(values, (axis,), self._bits, "mse"))
        most = 2 ** (self._bits - 1) - 1
        codes = np.clip(np.rint(values / scale), -most, most).astype(np.int8)
        stored = packed(codes) if self._bits == 4 else codes.view(np.uint8).ravel()
        return stored, scale.ravel().astype("float32")

"""Reading a TFLite flatbuffer into plain Python objects."""

from __future__ import annotations

import re
import struct
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.file_parts import Activation, Operator, Weight
from tfcompress.export.flatbuffer_editing import unpacked
from tfcompress.export.tensor_spec import TensorSpec

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_VARIABLES = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})
# The converter calls constants that it made itself by the operation that made them.
_ANONYMOUS = re.compile(r"^(tfl|arith|std)\.")


def read_tflite(source: str | PathLike[str] | bytes) -> tuple[str | None, bytes]:
    """Return `(path or None, content)` of a TFLite file after a look at its identifier.

    Args:
        source: Path of a `.tflite` file, or its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the content cannot be a TFLite file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        path, content = None, bytes(source)
    else:
        path = str(source)
        if not Path(path).exists():
            raise FileNotFoundError(f"There is no such TFLite file. Received: {path}")
        if Path(path).is_dir():
            raise ValueError(
                "A TFLite file is wanted here, but this is a folder. If it is a SavedModel, "
                f"convert it first (`tfcompress convert`). Received: {path}"
            )
        content = Path(path).read_bytes()
    shown = path or f"{len(content)} bytes"
    if not content:
        raise ValueError(f"The TFLite file is empty. Received: {shown}")
    if content[4:8] != b"TFL3":
        raise ValueError(
            "This is not a TFLite file: its identifier (bytes 4 to 8) should be b'TFL3' but is "
            f"{content[4:8]!r}. Received: {shown}"
        )
    return path, content


class Flatbuffer:
    """A parsed `.tflite` file.

    Args:
        content: The file, as `read_tflite` returned it.
        shown: What error messages call it.

    Raises:
        ValueError: If the content is truncated or damaged.
    """

    def __init__(self, content: bytes, shown: str) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._op_names = _names(schema.BuiltinOperator)
        self._type_names = {code: name.lower() for code, name in _names(schema.TensorType).items()}
        # The generated parser trusts every offset, so a damaged file fails in any of these ways.
        failures = (
            ValueError,
            IndexError,
            TypeError,
            AttributeError,
            KeyError,
            OverflowError,
            MemoryError,
            struct.error,
        )
        try:
            self._model = unpacked(content)
            if not self._model.subgraphs:
                raise ValueError("it holds no graph")
            self.description = _text(self._model.description)
            self.min_runtime = self._read_min_runtime()
            self.inputs, self.outputs = self._read_signature()
            self.operators = self._read_operators()
            self.output_steps = self._read_output_steps()
            self.weights = self._read_weights()
            self.stateful = any(op.role == "variable" for op in self.operators) or any(
                tensor.isVariable for graph in self._model.subgraphs for tensor in graph.tensors
            )
        except failures as error:
            raise ValueError(
                "The TFLite file is truncated or damaged and cannot be read "
                f"({type(error).__name__}: {error}). Write it again. Received: {shown}"
            ) from error

    def _dtype(self, tensor: Any) -> str:
        return self._type_names[tensor.type]

    def _op_name(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        # Files of old writers fill only the deprecated 8-bit field.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = self._op_names.get(number, f"BUILTIN_{number}")
        return f"CUSTOM:{_text(code.customCode)}" if name == "CUSTOM" else name

    def _read_min_runtime(self) -> str | None:
        for entry in self._model.metadata or ():
            if _text(entry.name) == "min_runtime_version":
                data = self._model.buffers[entry.buffer].data
                return bytes(data).rstrip(b"\0").decode() if data is not None else None
        return None

    def _read_signature(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        graph = self._model.subgraphs[0]
        names, outputs = {}, self._declared_outputs()
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                names = {entry.tensorIndex: _text(entry.name) for entry in signature.inputs or ()}
                break
        self.input_indices = [int(index) for index in _listed(graph.inputs)]
        self.output_indices = list(outputs.values())
        return (
            [self._spec(graph.tensors[i], names.get(i)) for i in self.input_indices],
            [self._spec(graph.tensors[index], name) for name, index in outputs.items()],
        )

    def _declared_outputs(self) -> dict[str, int]:
        """Return the tensor index of each output by name, `output_2` before `output_10`."""
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                declared = {_text(entry.name): entry.tensorIndex for entry in signature.outputs}
                return {name: int(declared[name]) for name in sorted(declared, key=natural_order)}
        graph = self._model.subgraphs[0]
        return {_text(graph.tensors[i].name): int(i) for i in _listed(graph.outputs)}

    def _spec(self, tensor: Any, name: str | None) -> TensorSpec:
        shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        scales = _scales(tensor)
        return TensorSpec(
            name=name or _text(tensor.name),
            shape=tuple(int(size) for size in _listed(shape)),
            dtype=self._dtype(tensor),
            scale=float(scales[0]) if len(scales) else None,
            zero_point=int(tensor.quantization.zeroPoint[0]) if len(scales) else None,
        )

    def _read_operators(self) -> list[Operator]:
        return [
            self._operator(index, operator, number, graph)
            for number, graph in enumerate(self._model.subgraphs)
            for index, operator in enumerate(graph.operators or ())
        ]

    def _operator(self, index: int, operator: Any, number: int, graph: Any) -> Operator:
        name = self._op_name(operator)
        inputs = [i for i in _listed(operator.inputs) if i >= 0]
        outputs = _listed(operator.outputs)
        dtypes = [self._dtype(graph.tensors[i]) for i in (*inputs, *outputs)]
        edges = {*_listed(graph.inputs), *_listed(graph.outputs)}
        if name.startswith("CUSTOM"):
            role = "custom"
        elif name in _VARIABLES:
            role = "variable"
        elif name in _CONVERSIONS and (edges & {*inputs, *outputs}):
            role = "edge"
        elif name in _CONVERSIONS:
            role = "conversion" if any("float" in dtype for dtype in dtypes) else "requantize"
        else:
            role = "float" if any("float" in dtype for dtype in dtypes) else "integer"
        return Operator(
            index=index,
            name=name,
            subgraph=number,
            inputs=tuple(_text(graph.tensors[i].name) for i in inputs),
            outputs=tuple(_text(graph.tensors[i].name) for i in outputs),
            input_dtypes=tuple(dtypes[: len(inputs)]),
            output_dtypes=tuple(dtypes[len(inputs) :]),
            role=role,
            input_shapes=tuple(_shape(graph.tensors[i]) for i in inputs),
            output_shapes=tuple(_shape(graph.tensors[i]) for i in outputs),
        )

    def stored(self, number: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The values of a weight.

        Args:
            number: Its position in `weights`; not one with TFLite's sparse encoding.

        Returns:
            What is stored, of the weight's shape: signed codes with the code of zero taken off, or
            float values; the scales (float64; empty for none); and the axis that they belong to.
        """
        tensor, weight = self._weight_tensors[number], self.weights[number]
        data = bytes(self._model.buffers[tensor.buffer].data)
        codes = _unpack(data, weight.dtype, weight.size).reshape(weight.shape)
        half = {"int4": 8, "int2": 2}.get(weight.dtype)
        if half is not None:
            codes = codes.astype(np.int16)
            codes[codes >= half] -= 2 * half
        elif weight.dtype == "bfloat16":
            data16 = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            codes = data16.view(np.float32).reshape(weight.shape)
        elif weight.dtype == "uint8":
            codes = codes.astype(np.int16) - int(tensor.quantization.zeroPoint[0])
        scales = np.asarray(_scales(tensor), np.float64)
        axis = int(tensor.quantization.quantizedDimension) if len(scales) > 1 else 0
        return codes, scales, axis

    def activations(self) -> list[Activation]:
        """The inputs of the main graph and what its operators compute, in execution order."""
        graph = self._model.subgraphs[0]
        found = [Activation(i, "", self._spec(graph.tensors[i], None)) for i in self.input_indices]
        for operator in graph.operators or ():
            found += [
                Activation(int(i), self._op_name(operator), self._spec(graph.tensors[i], None))
                for i in _listed(operator.outputs)
            ]
        return found

    def _read_output_steps(self) -> dict[str, float | None]:
        """Find the grid of outputs that are float only because the file dequantizes them."""
        graph = self._model.subgraphs[0]
        before = {
            _text(graph.tensors[operator.outputs[0]].name): graph.tensors[operator.inputs[0]]
            for operator in graph.operators or ()
            if self._op_name(operator) == "DEQUANTIZE"
        }
        steps: dict[str, float | None] = {}
        for name, index in self._declared_outputs().items():
            tensor = graph.tensors[index]
            scales = _scales(tensor)
            if not len(scales) and _text(tensor.name) in before:
                scales = _scales(before[_text(tensor.name)])
            steps[name] = float(scales[0]) if len(scales) else None
        return steps

    def _read_weights(self) -> list[Weight]:
        weights: list[Weight] = []
        taken: set[str] = set()
        reader = -1
        self._weight_tensors: list[Any] = []
        for graph in self._model.subgraphs:
            seen: set[int] = set()
            for operator in graph.operators or ():
                reader += 1
                for index in _listed(operator.inputs):
                    if index < 0 or index in seen:
                        continue
                    seen.add(index)
                    tensor = graph.tensors[index]
                    data = self._model.buffers[tensor.buffer].data
                    if data is None or not self._is_weight(tensor):
                        continue
                    name = _text(tensor.name)
                    if _ANONYMOUS.match(name) or not name:
                        made = _listed(operator.outputs)
                        # What sets a variable makes nothing.
                        owner = _text(graph.tensors[made[0]].name) if len(made) else "variable"
                        name = f"{owner}/weights"
                    unique, count = name, 2
                    while unique in taken:
                        unique, count = f"{name} ({count})", count + 1
                    taken.add(unique)
                    weights.append(self._weight(unique, tensor, bytes(data), operator, reader))
                    self._weight_tensors.append(tensor)
        return weights

    def _is_weight(self, tensor: Any) -> bool:
        # Integers without a scale are shapes, axes and paddings.
        return "float" in self._dtype(tensor) or len(_scales(tensor)) > 0

    def _weight(self, name: str, tensor: Any, data: bytes, operator: Any, reader: int) -> Weight:
        shape = _shape(tensor)
        size = int(np.prod(shape, dtype=np.int64))
        codes = _unpack(data, self._dtype(tensor), size)
        points: Any = () if tensor.quantization is None else _listed(tensor.quantization.zeroPoint)
        # Every scheme for weights is symmetric except the old per-tensor uint8.
        zero = int(points[0]) if len(points) == 1 else 0
        stored = int(np.count_nonzero(codes != zero))
        return Weight(
            name=name,
            shape=shape,
            dtype=self._dtype(tensor),
            scales=len(_scales(tensor)),
            zeros=1 - stored / size if size else 0.0,
            bytes=len(data),
            sparse=tensor.sparsity is not None,
            operator=self._op_name(operator),
            reader=reader,
        )


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts `output_2` before `output_10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _names(enum: Any) -> dict[int, str]:
    return {number: name for name, number in vars(enum).items() if isinstance(number, int)}


def _listed(values: Any) -> Any:
    """Return `values`, or nothing for an absent vector."""
    return () if values is None else values


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in _listed(tensor.shape))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", errors="replace")


def _scales(tensor: Any) -> Any:
    return () if tensor.quantization is None else _listed(tensor.quantization.scale)


def _unpack(data: bytes, dtype: str, size: int) -> np.ndarray:
    """Return the stored entries; types below one byte share bytes, lowest bits first."""
    bits = {"int4": 4, "uint4": 4, "int2": 2}.get(dtype)
    if bits is not None:
        packed = np.frombuffer(data, np.uint8)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes: np.ndarray = ((packed[:, None] >> shifts) & (2**bits - 1)).reshape(-1)
        return codes[:size]
    # bfloat16 has no NumPy type; its zeros (both signs) are found in the bits below the sign.
    if dtype == "bfloat16":
        return np.frombuffer(data, np.uint16) & 0x7FFF
    return np.frombuffer(data, dtype if dtype != "bool" else np.bool_)

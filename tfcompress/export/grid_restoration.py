"""Giving the weights of a converted file the integer grid that they were trained on.

The converter derives a weight's scale from its largest magnitude, as if that always had the code
127. Where the trained grid is another one (fewer bits, one scale for the tensor, scales that are
powers of two, learned or clipped), its codes are off by fractions of a step. This puts the trained
codes and scales into the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfcompress.quantization.kernel_grid import KernelGrid

# Largest distance, in int8 codes, between the converter's rounding of a trained code and the code's
# exact place: half a code, and some room for float noise where batch normalization was folded in.
_TOLERANCE = 0.6

# Relative distance up to which a scale is taken for the trained one, without a folded factor.
_SAME_SCALE = 1e-5

_LARGEST = {4: 7, 8: 127}


@dataclass(frozen=True)
class _Positions:
    """Positions among an operator's inputs, and the version that reads packed 4-bit weights."""

    data: int
    weight: int
    bias: int | None
    int4_version: int | None = None


# The reference kernels of DEPTHWISE_CONV_2D, and all of TRANSPOSE_CONV, take no 4-bit weights.
_OPERATORS = {
    "CONV_2D": _Positions(0, 1, 2, 7),
    "DEPTHWISE_CONV_2D": _Positions(0, 1, 2),
    "FULLY_CONNECTED": _Positions(0, 1, 2, 10),
    "TRANSPOSE_CONV": _Positions(2, 1, 3),
    "BATCH_MATMUL": _Positions(0, 1, None),
}


def restore_grids(path: Path, grids: Sequence[KernelGrid]) -> list[str]:
    """Replace the weights of a TFLite file by codes on the grids that they were trained on.

    Weights are found by their values, which survive renaming, transposing, folding and splitting. A
    batch normalization that was folded in has multiplied a channel, and with it its scale, but not
    its codes. Codes of up to 4 bits are packed where LiteRT's kernels read them; others are stored
    in 8 bits, where a code may stand for a power of two of codes.

    Args:
        path: The file, which is overwritten.
        grids: The grids of all kernels that are not on the converter's own.

    Returns:
        Names of the kernels that are in no integer operator of the file, or in one whose weights
        cannot have the grid; they keep the converter's rounding to 8 bits.
    """
    if not grids:
        return []
    editor = _Editor(path.read_bytes(), _KnownChannels(grids))
    editor.edit()
    path.write_bytes(editor.content())
    missing = [grid.name for grid in grids if grid.codes.any() and grid.name not in editor.found]
    for name in missing:
        logging.warning("No integer weight of the file has the codes of '%s'.", name)
    return missing


def packed_savings(content: bytes, grids: Sequence[KernelGrid]) -> tuple[int, dict[str, int]]:
    """Count what 4-bit codes would save in a file of 8-bit ones.

    Args:
        content: An int8 TFLite file.
        grids: The grids of its kernels.

    Returns:
        The size of the file as `restore_grids` writes it, without any change; and by name of the
        kernel the bytes that packing its codes saves, for the kernels that LiteRT reads in 4 bits.
    """
    editor = _Editor(content, _KnownChannels(grids))
    return len(editor.content()), editor.savings()


@dataclass(frozen=True)
class _Match:
    """What was trained, for the channels of one weight in the file.

    Attributes:
        names: The kernels.
        largest: Largest magnitude of a code, by channel.
        scales: What one code is worth, by channel.
        bits: Width of the codes.
    """

    names: frozenset[str]
    largest: np.ndarray
    scales: np.ndarray
    bits: int


class _KnownChannels:
    """All channels of all grids, to be looked up by their values."""

    def __init__(self, grids: Sequence[KernelGrid]) -> None:
        # What the converter makes of a channel, sorted, by the size of a channel.
        self._known: dict[int, list[tuple[np.ndarray, _Match]]] = {}
        for grid in grids:
            magnitudes = np.sort(np.abs(grid.codes), axis=1)
            largest = magnitudes[:, -1]
            expected = _LARGEST[8] * magnitudes / np.maximum(largest, 1)[:, None]
            match = _Match(
                frozenset([grid.name]), largest, grid.scales.astype("float64"), grid.bits
            )
            self._known.setdefault(magnitudes.shape[1], []).append((expected, match))

    def find(self, codes: np.ndarray) -> _Match | None:
        """Look up int8 codes of shape (channels, elements) as the converter wrote them."""
        found = np.sort(np.abs(codes.astype("float64")), axis=1)
        known = self._known.get(codes.shape[1], [])
        for expected, match in known:
            if expected.shape == found.shape and np.abs(expected - found).max() <= _TOLERANCE:
                return match
        # A kernel that was split or joined: channel by channel.
        pairs = []
        for channel in found:
            pair = self._find_channel(known, channel)
            if pair is None:
                return None
            pairs.append(pair)
        return _Match(
            frozenset().union(*(match.names for match, _ in pairs)),
            np.array([match.largest[row] for match, row in pairs]),
            np.array([match.scales[row] for match, row in pairs]),
            max(match.bits for match, _ in pairs),
        )

    def _find_channel(
        self, known: list[tuple[np.ndarray, _Match]], channel: np.ndarray
    ) -> tuple[_Match, int] | None:
        for expected, match in known:
            distances = np.abs(expected - channel).max(axis=1)
            row = int(distances.argmin())
            if distances[row] <= _TOLERANCE:
                return match, row
        return None


class _Editor:
    """Rewrites weights and biases of a flatbuffer."""

    def __init__(self, content: bytes, known: _KnownChannels) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._types = schema.TensorType
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
        self._names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
        self._known = known
        self.found: set[str] = set()

    def content(self) -> bytes:
        """The file."""
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def edit(self) -> None:
        """Rewrite every weight that is known."""
        for known in self._known_weights():
            self._edit_operator(*known)

    def savings(self) -> dict[str, int]:
        """Bytes that packing would save, by kernel, where there are kernels that read 4 bits."""
        found: dict[str, int] = {}
        for graph, operator, _, at, rows, match in self._known_weights():
            if at.int4_version is None:
                continue
            # Packing gives every reader of a shared weight a copy of its own.
            readers = _readers(graph, int(operator.inputs[at.weight]))
            saved = rows.size // readers - -(-rows.size // 2)
            for name in match.names:
                found[name] = found.get(name, 0) + saved // len(match.names)
        return found

    def _known_weights(self) -> Iterator[tuple[Any, Any, Any, _Positions, np.ndarray, _Match]]:
        for graph in self._model.subgraphs:
            for operator in graph.operators or ():
                code = self._model.operatorCodes[operator.opcodeIndex]
                name = self._names.get(max(code.builtinCode, code.deprecatedBuiltinCode))
                if name not in _OPERATORS:
                    continue
                at = _OPERATORS[name]
                weight = graph.tensors[operator.inputs[at.weight]]
                stored = self._model.buffers[weight.buffer].data
                if weight.type != self._types.INT8 or stored is None:
                    continue
                rows = _Layout(weight).channels_first(np.asarray(stored).view(np.int8))
                match = self._known.find(rows)
                if match is not None:
                    yield graph, operator, code, at, rows, match

    def _edit_operator(
        self, graph: Any, operator: Any, code: Any, at: _Positions, rows: np.ndarray, match: _Match
    ) -> None:
        weight = graph.tensors[operator.inputs[at.weight]]
        layout = _Layout(weight)
        self.found |= match.names
        is_packed = match.bits <= 4 and at.int4_version is not None
        factor = _code_factor(match, _LARGEST[4 if is_packed else 8])
        before = np.asarray(weight.quantization.scale, "float64")
        used = match.largest > 0
        # Channels of zeros keep what the converter gave them.
        after = np.where(used, _trained_scales(match, before) / factor, before)
        codes = np.rint(rows * (match.largest / _LARGEST[8])[:, None]) * factor[:, None]
        weight = self._own_input(graph, operator, at.weight)
        data = layout.restored(codes).astype(np.int8)
        if is_packed:
            weight.type = self._types.INT4
            code.version = max(code.version, at.int4_version or 0)
            data = packed(data)
        self._model.buffers[weight.buffer].data = np.ascontiguousarray(data).view(np.uint8).ravel()
        _set_scales(weight, after, used)
        if at.bias is not None and len(operator.inputs) > at.bias:
            source = graph.tensors[operator.inputs[at.data]].quantization.scale[0]
            self._edit_bias(graph, operator, at.bias, float(source) * after, used)

    def _edit_bias(
        self, graph: Any, operator: Any, position: int, after: np.ndarray, used: np.ndarray
    ) -> None:
        if operator.inputs[position] < 0:
            return
        bias = self._own_input(graph, operator, position)
        buffer = self._model.buffers[bias.buffer]
        before = np.asarray(bias.quantization.scale, "float64")
        after = np.where(used, after, before)
        ratio = np.divide(before, after, out=np.ones_like(after), where=used)
        codes = np.rint(np.asarray(buffer.data).view(np.int32) * ratio)
        buffer.data = codes.astype("int32").view(np.uint8)
        _set_scales(bias, after, used)

    def _own_input(self, graph: Any, operator: Any, position: int) -> Any:
        """An input of an operator, after making copies of what others in the file share."""
        index = int(operator.inputs[position])
        if _readers(graph, index) > 1:
            graph.tensors.append(copy.deepcopy(graph.tensors[index]))
            operator.inputs[position] = len(graph.tensors) - 1
        tensor = graph.tensors[operator.inputs[position]]
        tensors = (tensor for graph in self._model.subgraphs for tensor in graph.tensors)
        if sum(other.buffer == tensor.buffer for other in tensors) > 1:
            self._model.buffers.append(copy.copy(self._model.buffers[tensor.buffer]))
            tensor.buffer = len(self._model.buffers) - 1
        return tensor


def _readers(graph: Any, index: int) -> int:
    """How often the operators of a file read a tensor."""
    return sum(int(i) == index for operator in graph.operators for i in operator.inputs)


class _Layout:
    """Where the channels are in a weight tensor."""

    def __init__(self, tensor: Any) -> None:
        self._shape = tuple(int(size) for size in tensor.shape)
        self._scales = len(tensor.quantization.scale)
        self._axis = int(tensor.quantization.quantizedDimension) if self._scales > 1 else 0

    def channels_first(self, codes: np.ndarray) -> np.ndarray:
        """Flat codes as an array of shape (channels, elements of a channel)."""
        moved = np.moveaxis(codes.reshape(self._shape), self._axis, 0)
        return moved.reshape(self._scales, -1)

    def restored(self, rows: np.ndarray) -> np.ndarray:
        """The opposite of `channels_first`, in the tensor's shape."""
        rest = [size for axis, size in enumerate(self._shape) if axis != self._axis]
        moved = rows.reshape(self._shape[self._axis], *rest)
        return np.moveaxis(moved, 0, self._axis)


def _code_factor(match: _Match, largest: int) -> np.ndarray:
    """How many stored codes a trained code is worth.

    The more, the finer is the bias, whose step follows that of the weights. A power of two, so that
    scales which are powers of two stay so, and the same for channels that share a scale.
    """
    top = match.largest
    if len(set(match.scales.tolist())) == 1:
        top = np.full_like(top, top.max())
    factor: np.ndarray = 2.0 ** np.floor(np.log2(largest / np.maximum(top, 1)))
    return factor


def _trained_scales(match: _Match, before: np.ndarray) -> np.ndarray:
    """Scales of the trained codes, with the factor that batch normalization put on a channel."""
    scales = before * _LARGEST[8] / np.maximum(match.largest, 1)
    same = np.abs(scales / match.scales - 1) < _SAME_SCALE
    return np.where(same, match.scales, scales)


def _set_scales(tensor: Any, scales: np.ndarray, used: np.ndarray) -> None:
    """Write scales by channel, or one where all channels have the same."""
    if used.all() and len(set(scales.tolist())) == 1:
        scales = scales[:1]
    tensor.quantization.scale = scales.astype("float32")
    tensor.quantization.zeroPoint = np.zeros(len(scales), "int64")


def packed(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes in a byte, the first in the low half."""
    halves = codes.reshape(-1).view(np.uint8) & 15
    halves = np.concatenate([halves, np.zeros(len(halves) % 2, np.uint8)])
    pairs: np.ndarray = halves[0::2] | (halves[1::2] << 4)
    return pairs

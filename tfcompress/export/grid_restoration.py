"""Giving the weights of a converted file the integer grid that they were trained on.

The converter derives a weight's scale from its largest magnitude, as if that always had the code
127. Where the trained grid is another one (fewer bits, one scale for the tensor, scales that are
powers of two, learned or clipped), its codes are off by fractions of a step. This puts the trained
codes and scales into the file.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tfcompress.export.flatbuffer_editing import operator_kind, repacked, unpacked
from tfcompress.quantization.kernel_grid import KernelGrid
from tfcompress.quantization.schemes import PACKED_BITS

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


@dataclass(frozen=True, eq=False)
class _Reading:
    """An operator that reads a known weight.

    Attributes:
        graph: The subgraph.
        operator: The operator.
        code: Its kind and version.
        at: Where its inputs are.
        rows: The int8 codes of the weight, shape (channels, elements).
        match: What was trained.
    """

    graph: Any
    operator: Any
    code: Any
    at: _Positions
    rows: np.ndarray
    match: _Match

    def index(self, position: int) -> int:
        """Number of the tensor that is an input of the operator, -1 where there is none."""
        inputs = self.operator.inputs
        return int(inputs[position]) if len(inputs) > position else -1

    def tensor(self, position: int) -> Any:
        """An input of the operator."""
        return self.graph.tensors[self.index(position)]


class _Editor:
    """Rewrites weights and biases of a flatbuffer."""

    def __init__(self, content: bytes, known: _KnownChannels) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._types = schema.TensorType
        self._model = unpacked(content)
        self._names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
        self._known = known
        self.found: set[str] = set()
        # Numbers of the buffers that were written, by content, and of those no longer used.
        self._stored: dict[bytes, int] = {}
        self._replaced: set[int] = set()

    def content(self) -> bytes:
        """The file."""
        return repacked(self._model)

    def edit(self) -> None:
        """Rewrite every weight that is known, and the biases that are added to its products."""
        groups: dict[tuple[int, int, bool], list[_Reading]] = {}
        for known in self._known_weights():
            is_packed = known.match.bits <= PACKED_BITS and known.at.int4_version is not None
            reader = (id(known.graph), known.index(known.at.weight), is_packed)
            groups.setdefault(reader, []).append(known)
        biases: dict[tuple[int, int, bytes], list[tuple[_Reading, np.ndarray, np.ndarray]]] = {}
        for (_, _, is_packed), readings in groups.items():
            after, used = self._edit_weight(readings, is_packed)
            for known in readings:
                position = known.at.bias
                if position is None or known.index(position) < 0:
                    continue
                scales = after * float(known.tensor(known.at.data).quantization.scale[0])
                key = (id(known.graph), known.index(position), scales.tobytes())
                biases.setdefault(key, []).append((known, scales, used))
        for entries in biases.values():
            self._edit_bias(entries)
        referred = {tensor.buffer for graph in self._model.subgraphs for tensor in graph.tensors}
        for number in self._replaced - referred:
            self._model.buffers[number].data = None

    def savings(self) -> dict[str, int]:
        """Bytes that packing would save, by kernel, where there are kernels that read 4 bits."""
        found: dict[str, int] = {}
        packable = [known for known in self._known_weights() if known.at.int4_version is not None]
        readers = Counter((id(known.graph), known.index(known.at.weight)) for known in packable)
        seen: set[int] = set()
        for known in packable:
            weight, index = known.tensor(known.at.weight), known.index(known.at.weight)
            if weight.buffer in seen:
                continue
            seen.add(weight.buffer)
            saved = -((known.rows.size + 1) // 2)
            if readers[id(known.graph), index] == _readers(known.graph, index):
                saved += known.rows.size  # nobody needs the 8-bit codes any more
            for name in known.match.names:
                found[name] = found.get(name, 0) + saved // len(known.match.names)
        return found

    def _known_weights(self) -> Iterator[_Reading]:
        for graph in self._model.subgraphs:
            for operator in graph.operators or ():
                name = self._names.get(operator_kind(self._model, operator))
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
                    code = self._model.operatorCodes[operator.opcodeIndex]
                    yield _Reading(graph, operator, code, at, rows, match)

    def _edit_weight(
        self, readings: Sequence[_Reading], is_packed: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rewrite one weight for operators that read it alike.

        Returns:
            Its new scales, and which channels hold anything but zeros.
        """
        first = readings[0]
        at, match, weight = first.at, first.match, first.tensor(first.at.weight)
        layout = _Layout(weight)
        self.found |= match.names
        factor = _code_factor(match, _LARGEST[4 if is_packed else 8])
        before = np.asarray(weight.quantization.scale, "float64")
        used = match.largest > 0
        # Channels of zeros keep what the converter gave them.
        after = np.where(used, _trained_scales(match, before) / factor, before)
        codes = np.rint(first.rows * (match.largest / _LARGEST[8])[:, None]) * factor[:, None]
        data = layout.restored(codes).astype(np.int8)
        weight = self._own_tensor(readings, at.weight)
        if is_packed:
            weight.type = self._types.INT4
            data = packed(data)
        for known in readings:
            if is_packed:
                known.code.version = max(known.code.version, at.int4_version or 0)
        self._store(weight, data)
        _set_scales(weight, after, used)
        return after, used

    def _edit_bias(self, entries: Sequence[tuple[_Reading, np.ndarray, np.ndarray]]) -> None:
        """Rewrite one bias for operators that add it to sums of the same scales."""
        known, after, used = entries[0]
        position = known.at.bias
        if position is None:
            return
        bias = known.tensor(position)
        stored = np.asarray(self._model.buffers[bias.buffer].data).view(np.int32)
        before = np.asarray(bias.quantization.scale, "float64")
        after = np.where(used, after, before)
        ratio = np.divide(before, after, out=np.ones_like(after), where=used)
        codes = np.rint(stored * ratio).astype("int32")
        bias = self._own_tensor([known for known, *_ in entries], position)
        self._store(bias, codes)
        _set_scales(bias, after, used)

    def _own_tensor(self, readings: Sequence[_Reading], position: int) -> Any:
        """The tensor that some operators read; a copy for them if others read it, too."""
        graph, index = readings[0].graph, readings[0].index(position)
        if _readers(graph, index) > len(readings):
            graph.tensors.append(copy.deepcopy(graph.tensors[index]))
            for known in readings:
                known.operator.inputs[position] = len(graph.tensors) - 1
        return readings[0].tensor(position)

    def _store(self, tensor: Any, data: np.ndarray) -> None:
        """Give a tensor its data, in a buffer that equal ones share."""
        content = np.ascontiguousarray(data).view(np.uint8).ravel()
        number = self._stored.get(content.tobytes())
        if number is None:
            self._model.buffers.append(copy.copy(self._model.buffers[tensor.buffer]))
            number = len(self._model.buffers) - 1
            self._model.buffers[number].data = content
            self._stored[content.tobytes()] = number
        self._replaced.add(tensor.buffer)
        tensor.buffer = number


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

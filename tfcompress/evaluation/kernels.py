"""The values of weights in one layout, whether a Keras model or a file holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfcompress.evaluation.file_layers import RECURRENT
from tfcompress.evaluation.results import WeightHistogram

if TYPE_CHECKING:
    import keras

    from tfcompress.export.flatbuffer import Flatbuffer

MOST_HISTOGRAMS = 8
BINS = 51
# Two tensors that have nothing to do with each other are about 0 dB apart.
LEAST_SQNR = 1.0
# What these read is multiplied or looked up, whatever its shape is.
_READERS = frozenset(
    {
        "BATCH_MATMUL",
        "CONV_2D",
        "CONV_3D",
        "CONV_3D_TRANSPOSE",
        "DEPTHWISE_CONV_2D",
        # In float16 files it stands between any weight and what computes with it.
        "DEQUANTIZE",
        "EMBEDDING_LOOKUP",
        "FULLY_CONNECTED",
        "GATHER",
        "TRANSPOSE_CONV",
    }
    | RECURRENT
)
# How Keras' layers call what these operators are made from.
_KERAS_NAMES = ("kernel", "embeddings")
# Where output channels are: first in LiteRT but for these, last in Keras but for transposed ones.
_FILE_AXES = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "BATCH_MATMUL": -1, "GATHER": -1}


@dataclass(frozen=True, eq=False)
class Kernel:
    """One weight that is a kernel; see `is_kernel`.

    Attributes:
        name: Its name in the model or file.
        values: Real values of shape `(channels, elements of a channel)`, float32.
        steps: Scales of shape `(channels,)`; `None` for a float weight.
        bits: Stored bits of an element.
        folded: Whether a batch normalization may have been multiplied in.
    """

    name: str
    values: np.ndarray
    steps: np.ndarray | None
    bits: float
    folded: bool


def is_kernel(name: str, shape: tuple[int, ...], operator: str = "") -> bool:
    """Return whether a weight is more than a vector, such as a bias or the scales of channels.

    The shape alone does not tell: axes of 1 let a vector broadcast, such as (1, 1, 1, 6) of a
    normalization, but the kernel of a layer with one unit or one input has them, too. Where only
    one axis is longer, it is what computes with the weight that counts.

    Args:
        name: Its name, which ends in that of the variable in a Keras model.
        shape: Its shape.
        operator: LiteRT's operator that reads it; empty for a Keras model.
    """
    if len(shape) < 2:
        return False
    if sum(size > 1 for size in shape) > 1:
        return True
    return operator in _READERS if operator else name.endswith(_KERAS_NAMES)


def file_kernels(parsed: Flatbuffer) -> list[Kernel]:
    """The weights of a file; those in TFLite's sparse encoding are left out."""
    kernels = []
    for number, weight in enumerate(parsed.weights):
        if weight.sparse or not is_kernel(weight.name, weight.shape, weight.operator):
            continue
        codes, scales, axis = parsed.stored(number)
        channels = _FILE_AXES.get(weight.operator, 0) % codes.ndim
        values, steps = codes.astype(np.float32), None
        if len(scales):
            shape = [-1 if i == axis and len(scales) > 1 else 1 for i in range(codes.ndim)]
            values = values * scales.reshape(shape).astype(np.float32)
            steps = (
                np.broadcast_to(scales, codes.shape[channels])
                if _fits(scales, axis, channels)
                else None
            )
        kernels.append(
            Kernel(
                weight.name,
                _by_channel(values, channels),
                steps,
                8 * weight.bytes / weight.size,
                folded=True,
            )
        )
    return kernels


def _fits(scales: np.ndarray, axis: int, channels: int) -> bool:
    return len(scales) == 1 or axis == channels


def keras_kernels(model: keras.Model) -> list[Kernel]:
    """The weights of a Keras model as they are trained."""
    import keras

    from tfcompress.graph.weights import weights_of

    kernels = []
    for weight in weights_of(model):
        shape = tuple(weight.variable.shape)
        if not is_kernel(weight.name, shape) or "float" not in str(weight.variable.dtype):
            continue
        values = np.asarray(keras.ops.convert_to_numpy(weight.variable), np.float32)
        owner, axis = type(weight.owner).__name__, -1
        if "Depthwise" in owner and len(shape) > 2:
            values = values.reshape(*shape[:-2], -1)
        elif "Transpose" in owner:
            axis = -2
        bits = 8.0 * values.itemsize
        kernels.append(Kernel(weight.name, _by_channel(values, axis), None, bits, folded=False))
    return kernels


def counterparts(kernels: Sequence[Kernel], baseline: Sequence[Kernel]) -> dict[str, np.ndarray]:
    """Find the baseline's weight that each weight was made from.

    Names do not survive the converter, so a weight is known by its shape and by its values.

    Args:
        kernels: Weights of an entry.
        baseline: Weights of the baseline.

    Returns:
        By name of the entry's weight, the baseline's values, scaled channel by channel to the
        entry's where a batch normalization was folded into one of the two only.
    """
    free = list(baseline)
    found = {}
    for kernel in kernels:
        best: tuple[float, int, np.ndarray] | None = None
        for position, candidate in enumerate(free):
            if candidate.values.shape != kernel.values.shape:
                continue
            values = candidate.values
            # A factor for each value would turn any weight into any other.
            if candidate.folded != kernel.folded and values.shape[1] > 1:
                values = _rescaled(values, kernel.values)
            quality = sqnr(values, kernel.values)
            quality = np.inf if quality is None else quality
            if best is None or quality > best[0]:
                best = (quality, position, values)
            if quality == np.inf:
                break
        if best is not None and best[0] >= LEAST_SQNR:
            found[kernel.name] = best[2]
            del free[best[1]]
    return found


def sqnr(reference: np.ndarray, values: np.ndarray) -> float | None:
    """Signal-to-quantization-noise ratio in dB; `None` without noise or without signal."""
    noise = float(np.square(values.astype(np.float64) - reference).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    return 10 * float(np.log10(signal / noise)) if noise and signal else None


def histograms(kernels: Sequence[Kernel], before: dict[str, np.ndarray]) -> list[WeightHistogram]:
    """Return histograms of the largest weights, in their order.

    Args:
        kernels: Weights of an entry.
        before: What `counterparts` returned.
    """
    largest = sorted(kernels, key=lambda kernel: -kernel.values.size)[:MOST_HISTOGRAMS]
    return [_histogram(k, before.get(k.name)) for k in kernels if k in largest]


def _histogram(kernel: Kernel, before: np.ndarray | None) -> WeightHistogram:
    values, codes, step = kernel.values, None, None
    if kernel.steps is not None:
        steps = np.maximum(kernel.steps[:, None], np.finfo(np.float32).tiny)
        values = np.round(values / steps)
        before = None if before is None else before / steps
        codes, step = _codes(kernel, values), float(np.median(kernel.steps))
        # Whole numbers of steps to a bin, so that no bin counts more codes than another.
        per_bin = -(-codes // BINS)
        count = -(-codes // per_bin)
        count += 1 - count % 2
        low, width = -count * per_bin / 2, float(per_bin)
    else:
        shown = values if before is None else np.concatenate([values, before])
        limit = float(np.abs(shown).max(initial=0.0)) or 1.0
        count, low, width = BINS, -limit, 2 * limit / BINS
    edges = low + width * np.arange(count + 1)
    return WeightHistogram(
        name=kernel.name,
        quantized=kernel.steps is not None,
        low=float(low),
        width=float(width),
        after=_counts(values, edges),
        before=None if before is None else _counts(before, edges),
        zeros=float(np.mean(values == 0)),
        codes=codes,
        step=step,
    )


def _codes(kernel: Kernel, values: np.ndarray) -> int:
    """How many codes a symmetric grid has, from the stored bits or, packed in more, the values."""
    most = int(np.abs(values).max(initial=1.0))
    bits = max(2, min(round(kernel.bits), int(most).bit_length() + 1))
    return int(2**bits - 1)


def _counts(values: np.ndarray, edges: np.ndarray) -> tuple[int, ...]:
    inside = np.clip(values[values != 0], edges[0], np.nextafter(edges[-1], edges[0]))
    return tuple(int(count) for count in np.histogram(inside, edges)[0])


def _rescaled(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    energy = np.square(values).sum(1, keepdims=True)
    factors = (values * target).sum(1, keepdims=True) / np.where(energy, energy, 1)
    return values * factors


def _by_channel(values: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(values, axis, 0)
    return np.ascontiguousarray(moved.reshape(len(moved), -1), np.float32)

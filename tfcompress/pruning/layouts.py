"""How LiteRT stores a kernel, which is what blocks and N:M groups have to line up with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfcompress.pruning.rules import pruning_rule

Tensor = Any


@dataclass(frozen=True)
class StoredLayout:
    """A kernel as the matrix that LiteRT stores: output channels down, inputs across.

    Attributes:
        order: Axes of the kernel in the order in which LiteRT stores them.
        rows: How many of these, from the first, are output channels.
        last: How many, from the last, LiteRT stores as one axis of inputs. 0 if its last axis is
            not one of inputs, so that no group of weights along it belongs to one output.
        no_channels: Why a row is no channel that could go; empty if it is one.
    """

    order: tuple[int, ...]
    rows: int = 1
    last: int = 1
    no_channels: str = ""

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of a kernel of some shape."""
        sizes = [shape[axis] for axis in self.order]
        return math.prod(sizes[: self.rows]), math.prod(sizes[self.rows :])

    def last_size(self, shape: tuple[int, ...]) -> int:
        """Length of LiteRT's last axis for a kernel of some shape; 1 if it holds no inputs."""
        return math.prod(shape[axis] for axis in self.order[len(self.order) - self.last :])

    def to_matrix(self, kernel: Tensor) -> Tensor:
        """Bring a tensor of a kernel's shape into the stored order, as a matrix."""
        moved = kernel
        if self.order != tuple(range(len(self.order))):
            moved = ops.transpose(kernel, self.order)
        return ops.reshape(moved, self.matrix_shape(tuple(kernel.shape)))

    def to_kernel(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undo `to_matrix` for a kernel of some shape."""
        stored = ops.reshape(matrix, tuple(shape[axis] for axis in self.order))
        return ops.transpose(stored, [self.order.index(axis) for axis in range(len(self.order))])


def stored_layout(layer: keras.layers.Layer, variable: keras.Variable) -> StoredLayout | None:
    """How LiteRT stores a kernel of a layer; None where that is not known.

    Args:
        layer: The layer that owns the kernel.
        variable: The kernel.

    Example:

    ```python
    layout = stored_layout(conv, conv.kernel)    # (height, width, in, out)
    layout.order                                 # (3, 0, 1, 2): out, height, width, in
    ```
    """
    rule = pruning_rule(layer)
    if rule is None:
        return None
    on_request = any(getattr(layer, name, None) is variable for name in rule.on_request)
    name = rule.on_request_layout if on_request else rule.layout
    rank = len(variable.shape)
    if name == "dense":
        return StoredLayout((1, 0)) if rank == 2 else None
    if name == "convolution":
        # LiteRT's CONV_3D keeps Keras' order, with the outputs last, and has no sparse form.
        return StoredLayout((rank - 1, *range(rank - 1)), last=0 if rank > 4 else 1)
    if name == "transposed_convolution":
        order = (rank - 2, *range(rank - 2), rank - 1)
        return StoredLayout(order, last=0 if rank > 4 else 1)
    if name == "depthwise":
        return StoredLayout((rank - 2, rank - 1, *range(rank - 2)), rows=2, last=0)
    if name == "recurrent":
        return StoredLayout(
            (1, 0), no_channels="a unit of a recurrent layer is spread over gates and states"
        )
    if name == "rows":
        return StoredLayout((0, 1), no_channels="a row of an embedding is a token")
    if name == "einsum":
        return _einsum_layout(layer.equation)
    return None


def _einsum_layout(equation: str) -> StoredLayout | None:
    source, rest = equation.replace(" ", "").split(",")
    kernel, target = rest.split("->")
    if any(axis in source and axis in target for axis in kernel):
        # A kernel for each index of a shared axis: LiteRT multiplies matrices without weights.
        return None
    channels = [kernel.index(axis) for axis in target if axis in kernel]
    inputs = [kernel.index(axis) for axis in source if axis in kernel]
    return StoredLayout((*channels, *inputs), rows=len(channels), last=len(inputs))

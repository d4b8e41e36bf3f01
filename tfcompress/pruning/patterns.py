"""Which weights go together: single ones, N of every M, blocks, or whole output channels."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import Any

import keras
from keras import ops

from tfcompress.hints import did_you_mean
from tfcompress.pruning.configured import Configured
from tfcompress.pruning.layouts import StoredLayout

Tensor = Any
Shape = tuple[int, ...]

_UNKNOWN = "it is not known how LiteRT stores this weight; give its pruning rule a `layout`"


class Pattern(Configured, ABC):
    """Base class of sparsity patterns: how the weights of a kernel form units.

    A unit is what is kept or pruned as a whole. A pattern arranges a kernel as a matrix of shape
    `(units, members)`, and a mask of the units as one of the kernel.
    """

    # Final sparsity that the pattern stands for; None if any can be asked for.
    share: float | None = None

    def refusal(self, layout: StoredLayout | None, shape: Shape) -> str | None:
        """Why a kernel cannot have the pattern; None if it can.

        Args:
            layout: How LiteRT stores the kernel; None if that is not known.
            shape: Shape of the kernel.
        """
        return None

    @abstractmethod
    def members(self, layout: StoredLayout | None, shape: Shape) -> int:
        """How many weights of a kernel form a unit."""

    @abstractmethod
    def arrange(self, kernel: Tensor, layout: StoredLayout | None) -> Tensor:
        """Arrange a tensor of a kernel's shape as one of shape `(units, members)`."""

    @abstractmethod
    def restore(self, kept: Tensor, layout: StoredLayout | None, shape: Shape) -> Tensor:
        """Turn a mask of shape `(units,)` into one of the kernel's shape."""

    def protect(self, scores: Tensor, kept: Tensor) -> Tensor:
        """Scores in which units that the pattern must keep are infinite.

        Args:
            scores: Shape `(units,)`.
            kept: Boolean, of the same shape; False where pruned already.
        """
        return scores

    def most(self, units: int) -> int:
        """How many of the units of a kernel may be pruned at most."""
        return units - 1


@keras.saving.register_keras_serializable(package="tfcompress")
class Unstructured(Pattern):
    """Single weights, wherever they are. The smallest loss of accuracy; files shrink when zipped.

    Example:

    ```python
    MagnitudePruning(sparsity=0.8, pattern="unstructured")
    ```
    """

    def members(self, layout: StoredLayout | None, shape: Shape) -> int:
        """One weight is a unit."""
        return 1

    def arrange(self, kernel: Tensor, layout: StoredLayout | None) -> Tensor:
        """A column of all weights."""
        return ops.reshape(kernel, (-1, 1))

    def restore(self, kept: Tensor, layout: StoredLayout | None, shape: Shape) -> Tensor:
        """The mask in the kernel's shape."""
        return ops.reshape(kept, shape)

    def __str__(self) -> str:
        return "unstructured"


@keras.saving.register_keras_serializable(package="tfcompress")
class NOfM(Pattern):
    """At most `n` weights that are not zero in every `m` along LiteRT's last axis.

    That is the axis of the inputs: `in` of a Dense kernel, the input channels of each tap of a
    convolution. `"2:4"` keeps 2 of 4, a sparsity of 0.5. On the way there the lowest scores go
    first, and never more than `m - n` of a group.

    Reference: Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021),
    https://arxiv.org/abs/2104.08378.

    Args:
        n: Weights of a group that are kept, at least 1.
        m: Size of a group, above `n`.

    Raises:
        ValueError: If `n` is not between 1 and `m - 1`.

    Example:

    ```python
    MagnitudePruning(pattern="2:4")
    ```
    """

    def __init__(self, n: int, m: int) -> None:
        if not 1 <= n < m:
            raise ValueError(
                "An N:M pattern keeps at least 1 weight of each group and prunes at least 1. "
                f"Received: {n}:{m}"
            )
        self.n, self.m = int(n), int(m)
        self.share = 1 - self.n / self.m

    def refusal(self, layout: StoredLayout | None, shape: Shape) -> str | None:
        """Kernels whose inputs do not come in groups of `m`."""
        if layout is None:
            return _UNKNOWN
        if not layout.last:
            return f"pattern {self}: LiteRT's last axis of this kernel is not one of inputs"
        size = layout.last_size(shape)
        if size % self.m:
            return f"pattern {self}: {size} inputs are no whole number of groups of {self.m}"
        return None

    def members(self, layout: StoredLayout | None, shape: Shape) -> int:
        """Single weights, of which groups keep some."""
        return 1

    def arrange(self, kernel: Tensor, layout: StoredLayout | None) -> Tensor:
        """A column of all weights in the stored order, group after group."""
        return ops.reshape(_known(layout).to_matrix(kernel), (-1, 1))

    def restore(self, kept: Tensor, layout: StoredLayout | None, shape: Shape) -> Tensor:
        """The mask in the kernel's shape."""
        return _known(layout).to_kernel(kept, shape)

    def protect(self, scores: Tensor, kept: Tensor) -> Tensor:
        """Make the best `n` of each group infinite; of equal ones the last."""
        ranked = ops.where(kept, scores, ops.cast(-math.inf, scores.dtype))
        slots = [ops.reshape(ranked, (-1, self.m))[:, index] for index in range(self.m)]
        protected = []
        # Comparing the few members pair by pair is much faster than sorting millions of groups.
        for index, own in enumerate(slots):
            better: Any = 0
            for other, score in enumerate(slots):
                if other != index:
                    ahead = score > own if other < index else score >= own
                    better = better + ops.cast(ahead, "int32")
            protected.append(better < self.n)
        keep = ops.reshape(ops.stack(protected, axis=-1), (-1,))
        return ops.where(keep, ops.cast(math.inf, scores.dtype), scores)

    def most(self, units: int) -> int:
        """All but `n` of each group."""
        return units // self.m * (self.m - self.n)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"n": self.n, "m": self.m}

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@keras.saving.register_keras_serializable(package="tfcompress")
class Block(Pattern):
    """Blocks of weights in the matrix that LiteRT stores: output channels down, inputs across.

    `"1x4"` is 4 neighbouring inputs of one output, which lie next to each other in the file. For a
    Dense kernel of Keras, `(in, out)`, that is 4 rows of one column. A block of a convolution lies
    within one tap.

    Args:
        rows: Output channels of a block.
        columns: Inputs of a block.

    Raises:
        ValueError: If a size is below 1, or the block is a single weight.

    Example:

    ```python
    MagnitudePruning(sparsity=0.8, pattern="1x4")
    ```
    """

    def __init__(self, rows: int, columns: int) -> None:
        if rows < 1 or columns < 1 or rows * columns == 1:
            raise ValueError(
                "A block has at least 1 row and 1 column, and more than one weight. Single "
                f"weights are pattern='unstructured'. Received: {rows}x{columns}"
            )
        self.rows, self.columns = int(rows), int(columns)

    def refusal(self, layout: StoredLayout | None, shape: Shape) -> str | None:
        """Kernels that are no whole number of blocks, or would be one block."""
        if layout is None:
            return _UNKNOWN
        if not layout.last:
            return f"pattern {self}: LiteRT's last axis of this kernel is not one of inputs"
        channels, inputs = layout.matrix_shape(shape)[0], layout.last_size(shape)
        if channels % self.rows or inputs % self.columns:
            return f"pattern {self}: {channels} outputs by {inputs} inputs are no whole blocks"
        if math.prod(shape) == self.rows * self.columns:
            return f"pattern {self}: the kernel is a single block"
        return None

    def members(self, layout: StoredLayout | None, shape: Shape) -> int:
        """The weights of a block."""
        return self.rows * self.columns

    def arrange(self, kernel: Tensor, layout: StoredLayout | None) -> Tensor:
        """One block a row."""
        matrix = _known(layout).to_matrix(kernel)
        height, width = matrix.shape
        tiles = ops.reshape(
            matrix, (height // self.rows, self.rows, width // self.columns, self.columns)
        )
        return ops.reshape(ops.transpose(tiles, (0, 2, 1, 3)), (-1, self.rows * self.columns))

    def restore(self, kept: Tensor, layout: StoredLayout | None, shape: Shape) -> Tensor:
        """Every block's answer for each of its weights."""
        height, width = _known(layout).matrix_shape(shape)
        tiles = ops.reshape(kept, (height // self.rows, 1, width // self.columns, 1))
        whole = (height // self.rows, self.rows, width // self.columns, self.columns)
        matrix = ops.reshape(ops.broadcast_to(tiles, whole), (height, width))
        return _known(layout).to_kernel(matrix, shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"rows": self.rows, "columns": self.columns}

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@keras.saving.register_keras_serializable(package="tfcompress")
class Channel(Pattern):
    """Whole output channels: all weights of a neuron or filter.

    The zeros stay in the model, as do biases and normalization parameters of the channel; to take
    the channels out, see `tfcompress.shrink`. Layers whose channels are outputs of the model are
    left alone.

    Example:

    ```python
    MagnitudePruning(sparsity=0.5, pattern="channel")
    ```
    """

    def refusal(self, layout: StoredLayout | None, shape: Shape) -> str | None:
        """Kernels without channels, or with a single one."""
        if layout is None:
            return _UNKNOWN
        if layout.no_channels:
            return f"pattern {self}: {layout.no_channels}"
        if layout.matrix_shape(shape)[0] == 1:
            return f"pattern {self}: there is only one channel"
        return None

    def members(self, layout: StoredLayout | None, shape: Shape) -> int:
        """The weights of a channel."""
        return _known(layout).matrix_shape(shape)[1]

    def arrange(self, kernel: Tensor, layout: StoredLayout | None) -> Tensor:
        """One channel a row."""
        return _known(layout).to_matrix(kernel)

    def restore(self, kept: Tensor, layout: StoredLayout | None, shape: Shape) -> Tensor:
        """Every channel's answer for each of its weights."""
        matrix = ops.broadcast_to(ops.reshape(kept, (-1, 1)), _known(layout).matrix_shape(shape))
        return _known(layout).to_kernel(matrix, shape)

    def __str__(self) -> str:
        return "channel"


NAMES = ("unstructured", "channel", "filter")


def get(identifier: Any) -> Pattern:
    """Return the pattern that a name, a pair of sizes, a config or an object stands for.

    Args:
        identifier: `"unstructured"`, `"channel"` or `"filter"`, a block as `"1x4"` or `(1, 4)`,
            N of M as `"2:4"`, a `Pattern`, or its serialized config.

    Raises:
        ValueError: If it is none of these.

    Example:

    ```python
    get("1x4") == Block(1, 4)
    ```
    """
    if isinstance(identifier, Pattern):
        return identifier
    if isinstance(identifier, dict):
        made = keras.saving.deserialize_keras_object(identifier)
        if isinstance(made, Pattern):
            return made
    if isinstance(identifier, list | tuple) and [type(n) for n in identifier] == [int, int]:
        return Block(*identifier)
    if isinstance(identifier, str):
        if identifier in NAMES:
            return Unstructured() if identifier == "unstructured" else Channel()
        match = re.fullmatch(r"(\d+)([x:])(\d+)", identifier)
        if match:
            first, second = int(match[1]), int(match[3])
            return Block(first, second) if match[2] == "x" else NOfM(first, second)
    hint = did_you_mean(str(identifier).lower(), NAMES)
    raise ValueError(
        "`pattern` must be 'unstructured', 'channel', 'filter', a block such as '1x4' or (1, 4), "
        f"N of M such as '2:4', or a `Pattern`. Received: pattern={identifier!r}.{hint}"
    )


def _known(layout: StoredLayout | None) -> StoredLayout:
    if layout is None:
        raise ValueError(_UNKNOWN)
    return layout

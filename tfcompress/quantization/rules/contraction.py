"""Einstein summations with a kernel, as the one matrix product that LiteRT has a kernel for."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

_EQUATION = re.compile(r"([a-zA-Z.]+),([a-zA-Z]+)->([a-zA-Z.]+)")


@dataclass(frozen=True)
class Contraction:
    """The equation of a dense layer, such as `"abc,cde->abde"`, one letter for each axis.

    Args:
        source: Letters of the input's axes.
        kernel: Letters of the kernel's axes.
        target: Letters of the output's axes.

    Example:

    ```python
    contraction = Contraction.of("...x,xy->...y", rank=3)
    y = contraction(x, kernel)
    ```
    """

    source: str
    kernel: str
    target: str

    @classmethod
    def of(cls, equation: str, rank: int) -> Contraction:
        """Read an equation for an input of a given rank; an ellipsis becomes letters.

        Raises:
            ValueError: If it is not an equation of an input and a kernel.
        """
        match = _EQUATION.fullmatch(equation.replace(" ", ""))
        if match is None:
            raise ValueError(
                "Expected an equation of an input and a kernel, such as 'abc,cd->abd'. "
                f"Received: {equation!r}"
            )
        source, kernel, target = match.groups()
        unused = [letter for letter in string.ascii_letters if letter not in equation]
        elided = "".join(unused[: rank - len(source.replace("...", ""))])
        return cls(source.replace("...", elided), kernel, target.replace("...", elided))

    @property
    def contracted(self) -> str:
        """Axes of input and kernel that are summed over."""
        return "".join(a for a in self.source if a in self.kernel and a not in self.target)

    @property
    def free(self) -> str:
        """Axes of the input that stay, in the order of the output."""
        return "".join(a for a in self.target if a in self.source and a not in self.kernel)

    @property
    def channels(self) -> str:
        """Axes that the kernel adds, in the order of the output."""
        return "".join(a for a in self.target if a not in self.source)

    @property
    def shared(self) -> str:
        """Axes of all three: every index along them has a kernel of its own."""
        return "".join(a for a in self.target if a in self.source and a in self.kernel)

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Axes of the kernel that are output channels."""
        return tuple(self.kernel.index(axis) for axis in self.channels)

    def bias_is_of_channels(self, bias_axes: str | None) -> bool:
        """Whether a bias differs along output channels only, and so is part of the product."""
        return set(bias_axes or "") <= set(self.channels)

    def __call__(
        self,
        x: Any,
        kernel: Any,
        bias: Any = None,
        bias_axes: str = "",
        finish: Callable[[Any], Any] | None = None,
        grid: Callable[[Any, Any], Any] | None = None,
    ) -> Any:
        """`einsum(equation, x, kernel) + bias`.

        Args:
            x: The input, of fixed sizes along the axes that are summed over.
            kernel: The kernel; an array for an exported graph.
            bias: A bias of the output channels, in the shape that `EinsumDense` gives it.
                Defaults to None.
            bias_axes: Letters of the axes along which the bias differs.
            finish: A function that works on each element, applied to the result.
            grid: Rounds the flat bias for the flat kernel; see `Quantizers.bias_grid`. Defaults to
                None: not rounded.

        Returns:
            A tensor with the axes of `target`.
        """
        # Axes that the kernel has as well are of fixed size, others may be open in training.
        sizes = dict(zip(self.source + self.kernel, (*ops.shape(x), *kernel.shape), strict=True))
        features = math.prod(sizes[axis] for axis in self.contracted)
        channels = math.prod(sizes[axis] for axis in self.channels)
        rows = _transposed(x, self.source, self.free + self.contracted)
        rows = ops.reshape(rows, (-1, features))
        arrays = np if isinstance(kernel, np.ndarray) else ops
        matrix = _transposed(kernel, self.kernel, self.contracted + self.channels, arrays)
        matrix = arrays.reshape(matrix, (features, channels))
        if bias is not None:
            own = [sizes[axis] if axis in bias_axes else 1 for axis in self.channels]
            wide = [sizes[axis] for axis in self.channels]
            bias = arrays.broadcast_to(arrays.reshape(bias, own), wide)
            bias = arrays.reshape(bias, (channels,))
            bias = bias if grid is None else grid(bias, matrix)
        result = product(rows, matrix, bias)
        # Here and not on the final shape: only right behind the product an activation fuses.
        if finish is not None:
            result = finish(result)
        shape = [sizes[axis] for axis in (self.free + self.channels)[1:]]
        result = ops.reshape(result, (-1, *shape))
        return _transposed(result, self.free + self.channels, self.target)


def _transposed(x: Any, axes: str, wanted: str, arrays: Any = ops) -> Any:
    return x if axes == wanted else arrays.transpose(x, [axes.index(axis) for axis in wanted])


@keras.saving.register_keras_serializable("tfcompress")
class ConstantProduct(layers.Dense):
    """A product with a constant matrix in an exported graph.

    The matrix is a weight, which is saved as such; as an argument of an operation it would become
    text in the model's config. A class of its own has names of its own.
    """


def product(rows: Any, matrix: Any, bias: Any = None) -> Any:
    """`rows @ matrix + bias`.

    Args:
        rows: Shape (..., features).
        matrix: Shape (features, channels); an array for an exported graph.
        bias: Shape (channels,), or None.
    """
    if isinstance(matrix, np.ndarray):
        layer = ConstantProduct(matrix.shape[1], use_bias=bias is not None, dtype="float32")
        result = layer(rows)
        layer.set_weights([matrix] if bias is None else [matrix, np.asarray(bias)])
        return result
    result = ops.matmul(rows, matrix)
    return result if bias is None else ops.add(result, ops.cast(bias, result.dtype))

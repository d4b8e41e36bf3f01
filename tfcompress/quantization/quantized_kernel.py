"""A kernel of a layer on the integer grid of its scheme."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.quantization.fake_quant import fake_quant_weight
from tfcompress.quantization.kernel_grid import KernelGrid
from tfcompress.quantization.learned_scale import (
    learned_value,
    lsq_gradient_scale,
    lsq_quantize,
)
from tfcompress.quantization.schemes import Scheme
from tfcompress.quantization.weight_scale import (
    fake_quant_to_limit,
    fake_quant_to_scale,
    weight_scale,
)

# From name, shape and whether it is trained, to a new float32 variable.
AddScale = Callable[[str, tuple[int, ...], bool], keras.Variable]


class QuantizedKernel:
    """A kernel with its mask, quantized in scales that are found in its values.

    Args:
        variable: The kernel.
        axes: Axes of its output channels.
        scheme: The scheme of its layer.
        mask: Boolean variable of the kernel's shape, False where zeros are kept. None for no mask.
    """

    def __init__(
        self,
        variable: keras.Variable,
        axes: tuple[int, ...],
        scheme: Scheme,
        mask: keras.Variable | None = None,
    ) -> None:
        self.variable = variable
        self.axes = axes
        self.scheme = scheme
        self.mask = mask

    @property
    def _channel_axes(self) -> tuple[int, ...]:
        return self.axes if self.scheme.granularity == "per_channel" else ()

    @property
    def _shared_axes(self) -> tuple[int, ...]:
        rank = len(self.variable.shape)
        kept = {axis % rank for axis in self._channel_axes}
        return tuple(axis for axis in range(rank) if axis not in kept)

    @property
    def _largest_code(self) -> int:
        return 2 ** (self.scheme.weight_bits - 1) - 1

    def add_scales(self, add: AddScale) -> None:
        """Make the variables that the scales need; none where the values give them."""

    def start_scale(self) -> None:
        """Let a scale that is learned or given start from the values of now."""

    def set_limits(self, limits: np.ndarray) -> None:
        """Fix what the largest code stands for.

        Args:
            limits: Positive values, one, or one for each channel of the kernel's last axis.

        Raises:
            ValueError: If the scales of the scheme are not given, or the limits do not fit.
        """
        raise ValueError(
            f"The kernel '{self.variable.path}' finds its scales by itself. Give its layer a "
            f"scheme with weight_range='given'. Received: scheme {self.scheme.name!r}"
        )

    def masked(self) -> Any:
        """The values in float32, with the masked ones zero."""
        with keras_internals.without_autocast():
            value = ops.cast(self.variable.value, "float32")
        return value if self.mask is None else value * ops.cast(self.mask.value, "float32")

    def quantized(self) -> Any:
        """The masked and fake-quantized values, in float32."""
        value, bits = self.masked(), self.scheme.weight_bits
        if self.scheme.weight_range == "max" and self.scheme.power_of_two is None:
            return fake_quant_weight(value, self._channel_axes, bits)
        return fake_quant_to_scale(value, self._observed_scale(value), bits)

    def baked(self) -> np.ndarray:
        """The masked and quantized values as an array."""
        return ops.convert_to_numpy(self.quantized())

    def grid(self) -> KernelGrid:
        """The integer codes and scales, as the exported file must have them."""
        scale = ops.convert_to_numpy(self._scale(self.masked()))
        return KernelGrid.of(self.variable.path, self.baked(), scale, self.axes, self.scheme)

    def codes_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """The masked values in units of a code, and what a code is worth, which broadcasts to them.

        Rounding and clipping the first gives the codes.
        """
        value = self.masked()
        scale = ops.convert_to_numpy(self._scale(value))
        return ops.convert_to_numpy(value) / scale, scale

    def channel_scale(self) -> Any:
        """What one code is worth.

        Returns:
            A float32 tensor of shape (channels,) or (1,); 0 for a channel without weights, whose
            scale the converter fits to the bias.
        """
        value = self.masked()
        filled = ops.any(ops.not_equal(value, 0), axis=self._shared_axes, keepdims=True)
        scale = ops.where(filled, self._scale(value), 0.0)
        return ops.stop_gradient(ops.reshape(scale, (-1,)))

    def regridded(self, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The same codes in units of another scale.

        Args:
            values: The quantized values.
            scale: What one code is worth now, of shape (channels,).
        """
        kept = {axis % values.ndim for axis in self.axes}
        shape = [n if axis in kept else 1 for axis, n in enumerate(values.shape)]
        own = ops.convert_to_numpy(self.channel_scale())
        own = np.where(own > 0, own, 1).reshape(shape if own.size > 1 else -1)
        return np.rint(values / own) * scale.reshape(shape)

    def _scale(self, value: Any) -> Any:
        """What one code is worth while the masked values are these; broadcasts to them."""
        return self._observed_scale(value)

    def _observed_scale(self, value: Any) -> Any:
        scheme = self.scheme
        return weight_scale(
            value,
            self._channel_axes,
            scheme.weight_bits,
            "max" if scheme.has_given_scales else scheme.weight_range,
            scheme.power_of_two is not None,
        )

    @property
    def _scale_shape(self) -> tuple[int, ...]:
        shape = self.variable.shape
        return tuple(1 if axis in self._shared_axes else n for axis, n in enumerate(shape))


class GivenScaleKernel(QuantizedKernel):
    """A kernel whose scales came from elsewhere, and stay.

    Attributes:
        limit: Variable of what the largest code stands for.
    """

    limit: keras.Variable

    def add_scales(self, add: AddScale) -> None:
        """Make the limit."""
        self.limit = add("scale", self._scale_shape, False)

    def start_scale(self) -> None:
        """Let the limit be the largest value."""
        self.limit.assign(self._observed_scale(self.masked()) * self._largest_code)

    def set_limits(self, limits: np.ndarray) -> None:
        """Fix what the largest code stands for."""
        channels = self.limit.shape[-1]
        if limits.ndim > 1 or limits.size not in (1, channels):
            raise ValueError(
                f"'{self.variable.path}' takes one limit or {channels}, one for each channel of "
                f"the last axis. Received: limits of shape {limits.shape}"
            )
        self.limit.assign(np.broadcast_to(limits, self.limit.shape))

    def quantized(self) -> Any:
        """The masked values on the grid of the limit, ties decided as TensorFlow does."""
        limit, bits = self.limit.value, self.scheme.weight_bits
        return fake_quant_to_limit(self.masked(), limit, self._channel_axes, bits)

    def _scale(self, value: Any) -> Any:
        return self.limit.value / self._largest_code


class LearnedScaleKernel(QuantizedKernel):
    """A kernel whose scales the optimizer trains (Esser et al. 2020)."""

    def add_scales(self, add: AddScale) -> None:
        """Make the start of the scales, and what is trained: their growth."""
        self._start = add("scale", self._scale_shape, False)
        self._growth = add("growth", self._scale_shape, True)

    def start_scale(self) -> None:
        """Let the scales be those of the values."""
        self._start.assign(self._observed_scale(self.masked()))
        self._growth.assign(ops.zeros(self._growth.shape))

    def quantized(self) -> Any:
        """The masked values on the grid of the trained scales, which get a gradient."""
        value, steps = self.masked(), self._largest_code
        return lsq_quantize(value, self._scale(value), -steps, steps)

    def _scale(self, value: Any) -> Any:
        shared = math.prod(value.shape) // max(1, math.prod(self._scale_shape))
        strength = lsq_gradient_scale(shared, self._largest_code)
        return learned_value(self._start.value, self._growth.value, strength)


def quantized_kernel(
    variable: keras.Variable,
    axes: tuple[int, ...],
    scheme: Scheme,
    mask: keras.Variable | None = None,
) -> QuantizedKernel:
    """The kernel in the kind of scales that its scheme asks for; see `QuantizedKernel`."""
    kind = QuantizedKernel
    if scheme.has_given_scales:
        kind = GivenScaleKernel
    elif scheme.learned == "lsq":
        kind = LearnedScaleKernel
    return kind(variable, axes, scheme, mask)

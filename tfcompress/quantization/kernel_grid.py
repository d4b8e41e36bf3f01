"""The integer codes of a trained kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfcompress.quantization.schemes import Scheme


@dataclass(frozen=True, eq=False)
class KernelGrid:
    """A kernel as integers, channel by channel.

    Args:
        name: Path of the variable, for messages.
        codes: Integers of shape (channels, elements of a channel).
        scales: What one code is worth, of shape (channels,), float32.
        bits: Width of the codes.
        is_converters: Whether a converter that sees only the values finds this grid again.
    """

    name: str
    codes: np.ndarray
    scales: np.ndarray
    bits: int
    is_converters: bool

    @classmethod
    def of(
        cls,
        name: str,
        values: np.ndarray,
        scale: np.ndarray,
        channel_axes: tuple[int, ...],
        scheme: Scheme,
    ) -> KernelGrid:
        """Read the codes off quantized values.

        Args:
            name: Path of the variable.
            values: The quantized kernel.
            scale: What one code is worth; broadcasts to `values`.
            channel_axes: Axes of the output channels, in which a file may tell scales apart.
            scheme: The scheme of the kernel.
        """
        if scheme.power_of_two is not None:
            # Off by the last bit where the backend computed the power.
            scale = np.exp2(np.rint(np.log2(scale))).astype("float32")
        scale = np.broadcast_to(scale, values.shape)
        rank = values.ndim
        axes = [axis % rank for axis in channel_axes]
        channels = int(np.prod([values.shape[axis] for axis in axes], dtype=int))
        rows, scales = (
            np.moveaxis(x, axes, range(len(axes))).reshape(channels, -1) for x in (values, scale)
        )
        codes = np.rint(rows / scales).astype("int32")
        return cls(name, codes, scales[:, 0], scheme.weight_bits, scheme.on_converters_grid)

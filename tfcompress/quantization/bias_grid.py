"""The grid of biases: LiteRT stores them in units of the integer sums that they are added to."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops


def round_bias(bias: Any, unit: Any) -> Any:
    """Round a bias as LiteRT stores it.

    Args:
        bias: Float32 tensor of shape (channels,) or scalar.
        unit: What one code of the bias is worth: the scale of the input times that of the weight
            (Jacob et al. 2018, section 2.4). Broadcasts to `bias`. Not positive where the bias is
            not rounded.

    Returns:
        A float32 tensor; its gradient with respect to `bias` is 1.
    """
    known = unit > 0
    divisor = ops.where(known, unit, ops.ones_like(unit))
    rounded = ops.where(known, ops.round(bias / divisor) * divisor, bias)
    return bias + ops.stop_gradient(rounded - bias)


def told_apart(bias: np.ndarray) -> np.ndarray:
    """A bias of the same integer codes that the converter quantizes channel by channel.

    It gives a bias of equal values the code of the first channel everywhere, whatever the scales of
    the other channels are.

    Args:
        bias: Float32 of shape (channels,).
    """
    if len(bias) > 1 and bias[0] != 0 and np.all(bias == bias[0]):
        return np.concatenate([np.nextafter(bias[:1], np.float32(np.inf)), bias[1:]])
    return bias

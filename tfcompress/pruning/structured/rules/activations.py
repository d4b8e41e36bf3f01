"""Functions that work on each element by itself: found out by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops


def is_elementwise(function: Callable[[Any], Any]) -> bool:
    """Whether a function of a tensor treats every element by itself, unlike softmax."""
    first = _values(function, [[0.3, -1.2, 0.9]])
    second = _values(function, [[0.3, 2.1, -0.4]])
    return first.shape == (1, 3) and bool(np.allclose(first[0, 0], second[0, 0], atol=1e-6))


def keeps_zero(function: Callable[[Any], Any]) -> bool:
    """Whether a function of a tensor is exactly 0 at 0."""
    return bool(np.all(_values(function, [[0.0, 0.0, 0.0]]) == 0))


def _values(function: Callable[[Any], Any], values: list[list[float]]) -> np.ndarray:
    result: np.ndarray = ops.convert_to_numpy(function(ops.convert_to_tensor(values, "float32")))
    return result

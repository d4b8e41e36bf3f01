"""Named arrays in an `.npz` file: how samples and outputs travel to and from the child process."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import numpy as np


def save_arrays(path: str | PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays`; unlike in `numpy.savez`, any text may be a name and the order is kept."""
    np.savez(path, *arrays.values(), names=np.array(list(arrays), dtype=np.str_))


def load_arrays(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return {str(name): archive[f"arr_{i}"] for i, name in enumerate(archive["names"])}

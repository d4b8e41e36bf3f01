"""Data sets in NumPy's .npz archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from tfcompress.datasets.arrays import checked_split, divide
from tfcompress.datasets.dataset import Split

TEST_FRACTION = 0.2


def load_npz(path: Path) -> tuple[Split, Split]:
    """Read `x_train`, `y_train`, `x_test`, `y_test`, or `x` and `y`, from an .npz file.

    Args:
        path: The file. With only `x` and `y`, a fixed fifth of the samples becomes the test split.

    Returns:
        `(train, test)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an .npz archive, holds pickled objects, or lacks these arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no data file at {path}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array, as .npy files do")
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}). Write it with "
            "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        return (
            checked_split(arrays["x_train"], arrays["y_train"], f"the training split of {path}"),
            checked_split(arrays["x_test"], arrays["y_test"], f"the test split of {path}"),
        )
    if {"x", "y"} <= set(arrays):
        return divide(checked_split(arrays["x"], arrays["y"], str(path)), TEST_FRACTION)
    raise ValueError(
        f"{path} must hold the arrays x_train, y_train, x_test and y_test, or x and y. "
        f"Received: {', '.join(sorted(arrays)) or 'no arrays'}"
    )

"""Calibration samples named on a command line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any


def load_samples(source: str, data_dir: str | None = None) -> Any:
    """Read calibration samples.

    Args:
        source: An `.npz` file, holding `x` or `x_train`, a single array, or one array for each
            input of the model under its name; or a data set spec such as `digits`, whose
            preprocessed training samples are taken.
        data_dir: Folder of TensorFlow Datasets files.

    Returns:
        An array of shape `(n, ...)`, or a dict of such arrays by input name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no `.npz` archive of plain arrays, or the spec is unknown.
    """
    import numpy as np

    from tfcompress import datasets

    if not source.endswith(".npz"):
        return datasets.load(source, data_dir=data_dir).train.x
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no calibration file of this name. Received: {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is not an .npz file of plain arrays ({error}). "
            "Write one with np.savez(path, x=samples)."
        ) from error
    for name in ("x", "x_train"):
        if name in arrays:
            return arrays[name]
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays

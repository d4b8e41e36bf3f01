"""Calibration samples that a string names: files, folders, data sets, functions."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.datasets.images import ImageFolder

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

# More than calibration ever needs; 256 samples are used.
_MOST_BYTES = 16 << 30


def named_samples(
    source: str | os.PathLike[str], names: Sequence[str], data_dir: Any = None
) -> Any:
    """Look up what a string stands for.

    Args:
        source: The path of an `.npy` or `.npz` file, the path of a folder of images,
            `"package.module:function"`, which is called without arguments, or a data set for
            `tfcompress.datasets.load`, such as `"digits"` or `"tfds:mnist"`, whose training samples
            are taken.
        names: Names of the inputs of the model.
        data_dir: Folder of TensorFlow Datasets files.

    Returns:
        Anything that `calibration_samples` takes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read, its arrays do not fit, or a function cannot be found.
    """
    text, path = os.fspath(source), Path(source).expanduser()
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix in (".npy", ".npz"):
        return _read(path, names)
    if text == "digits" or text.startswith("tfds:"):
        from tfcompress.datasets.loading import load

        return load(text, data_dir=data_dir).train.x
    if is_function(text):
        return _call(text)
    if not path.exists():
        raise FileNotFoundError(f"There is no such file of calibration samples. Received: {path}")
    raise ValueError(
        "Calibration samples are an `.npy` or `.npz` file, a folder of images, a data set such as "
        f"'digits' or 'tfds:mnist', or 'package.module:function'. Received: {path}"
    )


def is_function(text: str) -> bool:
    """Whether a string names a function of a module, and neither a data set nor a path."""
    return _FUNCTION.fullmatch(text) is not None and not text.startswith("tfds:")


def _call(text: str) -> Any:
    module, _, name = text.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"There is no such function of calibration samples ({error}). The module must be on "
            f"Python's path. Received: {text!r}"
        ) from error
    if not callable(function):
        return function
    try:
        return function()
    except TypeError as error:
        raise ValueError(
            f"A function of calibration samples takes no arguments and returns them: {error}. "
            f"Received: {text!r}"
        ) from error


def _read(path: Path, names: Sequence[str]) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file of calibration samples. Received: {path}")
    _check_size(path)
    try:
        content = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return content
        with content:
            arrays = {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"The calibration file cannot be read; it must hold plain arrays ({error}). "
            f"Received: {path}"
        ) from error
    if all(name in arrays for name in names):
        return {name: arrays[name] for name in names}
    if len(names) == 1:
        for name in ("x", "x_train"):
            if name in arrays:
                return arrays[name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
    raise ValueError(
        f"The arrays of {path.name} must be named like the inputs of the model, {list(names)}. "
        f"Received: {list(arrays)}"
    )


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_BYTES:
        raise ValueError(
            f"A calibration file has at most {_MOST_BYTES >> 30} GB; a few hundred samples are "
            f"enough. Received: {path}, {size:,} bytes unpacked"
        )

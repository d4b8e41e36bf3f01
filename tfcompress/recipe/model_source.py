"""Getting the float model that a recipe names."""

from __future__ import annotations

import importlib
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from tfcompress.datasets import Dataset
from tfcompress.recipe import architectures
from tfcompress.recipe.schema import ModelSection


def check_model(section: ModelSection) -> None:
    """Check that the named model can be had, without building it.

    Args:
        section: The recipe's `model` section.

    Raises:
        ValueError: If the architecture, one of its arguments or the function is unknown, or the
            file is neither `.keras` nor `.h5`.
        FileNotFoundError: If the file does not exist.
    """
    if section.architecture is not None:
        architectures.check(section.architecture, section.arguments)
    elif section.path is not None:
        _check_file(section.path)
    else:
        _function(section)


def load_model(section: ModelSection, data: Dataset) -> keras.Model:
    """Build or read the float model.

    Args:
        section: The recipe's `model` section.
        data: The data set, whose input shape and number of classes an architecture is built for.

    Returns:
        An uncompiled, built Keras model.

    Raises:
        ValueError: See `check_model`; also if a function does not return a built Keras model, or
            an architecture is asked for on data without classes or with several inputs.
        FileNotFoundError: If the file does not exist.
    """
    check_model(section)
    if section.architecture is not None:
        if data.num_classes is None or not isinstance(data.input_shape, tuple):
            raise ValueError(
                "A named architecture classifies one input. For other data use `model.function` "
                f"or `model.path`. Received: architecture={section.architecture!r} for {data!r}"
            )
        return architectures.build(
            section.architecture, data.input_shape, data.num_classes, section.arguments
        )
    if section.path is not None:
        return read_model(section.path)
    model = _function(section)(**section.arguments)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "`model.function` must return a built Keras model; call `model.build(input_shape)` "
            f"first. Received: {model!r} from {section.function}"
        )
    return model


def read_model(path: str | PathLike[str]) -> keras.Model:
    """Read a model from a file.

    Args:
        path: A `.keras` or `.h5` file.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: If the file has another suffix, or Keras cannot read it.
        FileNotFoundError: If it does not exist.
    """
    file = _check_file(path)
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"Keras cannot read the model in {file}: {error}") from error


def _check_file(path: str | PathLike[str]) -> Path:
    file = Path(path).expanduser()
    if file.suffix not in (".keras", ".h5"):
        raise ValueError(f"A model file ends in .keras or .h5. Received: {file}")
    if not file.is_file():
        raise FileNotFoundError(f"There is no model file of this name. Received: {file}")
    return file


def _function(section: ModelSection) -> Any:
    module_name, _, name = str(section.function).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"`model.function` names a module that cannot be imported ({error}). "
            f"Received: {section.function}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(
            f"Module {module_name!r} has no function {name!r}. Received: {section.function}"
        )
    return function

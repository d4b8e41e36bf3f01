"""From whatever holds samples to NumPy arrays: checks, collection from tf.data, splitting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfcompress.datasets.dataset import Split


def is_tf_dataset(data: Any) -> bool:
    """Return whether `data` is a `tf.data.Dataset`, without importing TensorFlow."""
    return hasattr(data, "element_spec") and hasattr(data, "as_numpy_iterator")


def collect(data: Any, source: str = "the tf.data.Dataset") -> Split:
    """Read a finite `tf.data.Dataset` of `(x, y)` into memory.

    Args:
        data: Dataset of `(x, y)` batches. Single samples (scalar labels) are taken too.
        source: What to call it in errors.

    Returns:
        All its samples.

    Raises:
        ValueError: If it never ends, is empty, or its elements are not `(x, y)` pairs.
    """
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(f"{source} must yield (x, y) pairs. Received elements of {spec}")
    if int(data.cardinality()) == -1:
        raise ValueError(f"{source} never ends (it repeats); use `.take(steps)`. Received: {data}")
    if getattr(spec[1], "shape", None) is not None and spec[1].shape.rank == 0:
        data = data.batch(256)
    batches = [(element[0], element[1]) for element in data.as_numpy_iterator()]
    if not batches:
        raise ValueError(f"{source} is empty; it must yield at least one (x, y) batch.")
    x = _concatenate([batch[0] for batch in batches])
    y = np.concatenate([_one_array(batch[1], source) for batch in batches])
    return checked_split(x, y, source)


def _concatenate(batches: list[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Mapping):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in first}
    if isinstance(first, (list, tuple)):
        return [np.concatenate(arrays) for arrays in zip(*batches)]
    return np.concatenate(batches)


def checked_split(x: Any, y: Any, source: str) -> Split:
    """Return `x` and `y` as numeric arrays of one length.

    Args:
        x: Array-like of shape `(n, ...)`, or a dict or list of such.
        y: Array-like of shape `(n,)` or `(n, ...)`.
        source: What to call it in errors.

    Raises:
        ValueError: If they are empty, differ in length or are not numeric.
    """
    several = isinstance(x, (Mapping, tuple)) or (
        isinstance(x, list) and bool(x) and hasattr(x[0], "shape") and x[0].ndim > 0
    )
    if isinstance(x, Mapping):
        x = {name: _numeric(array, f"input {name!r} of {source}") for name, array in x.items()}
        arrays = list(x.values())
    elif several:
        x = [_numeric(array, f"input {i} of {source}") for i, array in enumerate(x)]
        arrays = x
    else:
        x = _numeric(x, f"x of {source}")
        arrays = [x]
    y = _numeric(_one_array(y, source, len(arrays[0])), f"y of {source}")
    for array in arrays:
        if len(array) != len(y):
            raise ValueError(
                f"x and y of {source} must have one length. Received: x of shape {array.shape}, "
                f"y of shape {y.shape}"
            )
    return Split(x, y)


def _one_array(y: Any, source: str, count: int | None = None) -> Any:
    """Return the labels, which several outputs would have as a dict, tuple or list of arrays.

    Args:
        y: Labels as they were given.
        source: What to call them in errors.
        count: Number of samples, which tells a list of arrays from a list of rows. Defaults to
            `None`, for batches of a `tf.data.Dataset`, which are never lists.
    """
    several = isinstance(y, Mapping) or (isinstance(y, tuple) and any(np.ndim(part) for part in y))
    if several or (isinstance(y, list) and _are_outputs(y, count)):
        raise ValueError(
            f"y of {source} must be the labels of one output, of one shape for all samples. "
            f"Received: a {type(y).__name__} of {len(y)}. Of a model with several outputs, use one "
            "at a time: keras.Model(model.inputs, model.outputs[0])."
        )
    return y


def _are_outputs(parts: list[Any], count: int | None) -> bool:
    """Whether a list holds the labels of an output each, rather than those of a sample each."""
    try:
        shape = np.shape(parts)
    except ValueError:
        # NumPy makes no array of parts of different shapes.
        return True
    return len(shape) > 1 and len(parts) != count == shape[1]


def _numeric(array: Any, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numeric. Received: dtype {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{what} must hold at least one sample. Received: shape {array.shape}")
    return array


def take(x: Any, rows: np.ndarray | slice) -> Any:
    """Return the given rows of an array, or of each array in a dict or list."""
    if isinstance(x, Mapping):
        return {name: array[rows] for name, array in x.items()}
    if isinstance(x, (list, tuple)):
        return [array[rows] for array in x]
    return x[rows]


def divide(split: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """Divide samples in two, the same way every time, keeping class proportions where it can.

    Args:
        split: Samples to divide.
        fraction: Share of the second part, between 0 and 1, exclusive.
        seed: Seed of the shuffle. Defaults to 0.

    Returns:
        The larger first part and the second part.

    Raises:
        ValueError: If `fraction` is not between 0 and 1, or leaves a part empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"The fraction must lie between 0 and 1, exclusive. Received: {fraction!r}"
        )
    from sklearn.model_selection import train_test_split

    labels = split.y.ravel() if split.y.size == len(split.y) else None
    stratify = None
    if labels is not None and labels.dtype.kind in "iub":
        _, counts = np.unique(labels, return_counts=True)
        second = int(np.ceil(fraction * len(labels)))
        if counts.min() >= 2 and len(counts) <= min(second, len(labels) - second):
            stratify = labels
    if len(split.y) < 2:
        raise ValueError(f"At least 2 samples are needed to divide. Received: {len(split.y)}")
    first_rows, second_rows = train_test_split(
        np.arange(len(split.y)), test_size=fraction, random_state=seed, stratify=stratify
    )
    return (
        Split(take(split.x, first_rows), split.y[first_rows]),
        Split(take(split.x, second_rows), split.y[second_rows]),
    )


def class_names(*labels: np.ndarray) -> tuple[str, ...] | None:
    """Return names "0" … "C-1" for integer class ids, the columns of one-hot rows, or `None`."""
    if any(y.ndim > 1 and y.shape[1] > 1 for y in labels):
        hot = all(
            y.ndim == 2 and bool(np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()) for y in labels
        )
        return tuple(str(i) for i in range(labels[0].shape[1])) if hot else None
    if any(y.dtype.kind not in "iub" or y.min() < 0 for y in labels):
        return None
    return tuple(str(i) for i in range(int(max(y.max() for y in labels)) + 1))

"""Calibration samples in whatever form they come, as one array for each model input."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from absl import logging

from tfcompress.datasets.images import ImageFolder
from tfcompress.datasets.named_samples import named_samples
from tfcompress.datasets.plausibility import doubts
from tfcompress.hints import did_you_mean

Shape = Sequence[int | None]
InputSpecs = Sequence[tuple[str, Shape, str]]


def calibration_samples(
    data: Any, inputs: InputSpecs, limit: int | None = 256
) -> dict[str, np.ndarray]:
    """Collect samples to calibrate or verify a model with.

    Args:
        data: One of

            * an array (NumPy or a tensor) of shape (n, …), or a single sample;
            * a dictionary of arrays by input name;
            * a list or tuple of arrays in the order of `inputs`, or `(x, y)`, whose labels are
              left out;
            * a `tf.data.Dataset`, batched or not, of such elements;
            * a Keras `PyDataset`, a generator, or any other iterable of batches or samples, or a
              function without arguments that returns one;
            * the path of an `.npy` file, or of an `.npz` file whose arrays are named like the
              inputs (for one input: any single array, or one named `x`);
            * the path of a folder of images, or an `ImageFolder`, which says how they are scaled;
            * a data set such as `"digits"` or `"tfds:mnist"`, or `"package.module:function"`.
        inputs: `(name, shape without the batch, dtype)` of each model input; `None` in a shape
            fits anything.
        limit: Most samples to return; `None` for all. From arrays they are taken evenly spaced,
            since arrays are often sorted by class; from anything else the first ones.

    Returns:
        `{input name: array of shape (n, …)}` in the order of `inputs`, in the dtype of the input.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If `data` is none of the above.
        ValueError: If there are no samples, names or shapes do not fit, or values are not numbers,
            not finite, or not whole where the input takes integers.

    Example:

    ```python
    calibration_samples(dataset, [("image", (28, 28, 1), "float32")], limit=128)["image"].shape
    # (128, 28, 28, 1)
    ```
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, or `None` for all. Received: {limit}")
    if not inputs:
        raise ValueError("`inputs` must describe at least one model input. Received: none")
    if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__array__"):
        data = data()
    if isinstance(data, str | PathLike):
        data = named_samples(data, [name for name, _, _ in inputs])
        if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__array__"):
            data = data()
    if isinstance(data, ImageFolder):
        data = _images(data, inputs, limit)
    whole = _whole(data, inputs)
    if whole is not None:
        samples = _evenly(whole, limit)
    else:
        samples = _collect(_elements(data), inputs, limit)
    checked = {name: _checked(samples[name], name, dtype) for name, _, dtype in inputs}
    for doubt in doubts(checked):
        logging.warning("Calibration samples: %s", doubt)
    return checked


def _images(folder: ImageFolder, inputs: InputSpecs, limit: int | None) -> np.ndarray:
    if len(inputs) > 1:
        raise ValueError(
            "A folder of images fits a model with one input. For several, give a dictionary of "
            f"arrays by name. Received: {folder.path} for {[name for name, _, _ in inputs]}"
        )
    _, shape, dtype = inputs[0]
    images = folder.read(shape, dtype, limit)
    logging.info("%d images of %s: %s", len(images), folder.path, folder.describe(dtype))
    return images


def _whole(data: Any, inputs: InputSpecs) -> dict[str, np.ndarray] | None:
    """Return everything at once if `data` is arrays, `None` if it must be iterated over."""
    if isinstance(data, Mapping) or _is_array(data):
        return _batch(data, inputs)
    if not isinstance(data, list | tuple):
        return None
    if not data:
        raise ValueError("There are no calibration samples. Received: an empty list")
    # A list of arrays may also be a list of batches, so believe it only if everything fits.
    if isinstance(data, tuple) or len(inputs) > 1:
        try:
            return _batch(data, inputs)
        except ValueError:
            if len(data) == len(inputs) > 1 and all(_is_array(entry) for entry in data):
                raise
            return None
    if all(isinstance(entry, int | float) for entry in data):
        return _batch(np.asarray(data), inputs)
    return None


def _elements(data: Any) -> Iterator[Any]:
    # A Keras PyDataset has batches and a length, but iterating over it does not end.
    if hasattr(data, "num_batches") and hasattr(data, "__getitem__"):
        count = data.num_batches
        return (data[i] for i in (itertools.count() if count is None else range(count)))
    if hasattr(data, "as_numpy_iterator"):
        return iter(data.as_numpy_iterator())
    if isinstance(data, Iterable):
        return iter(data)
    raise TypeError(
        "`calibration` must be an array, a dictionary of arrays, a `tf.data.Dataset`, an iterable "
        "of batches, or the name of a file, a folder of images, a data set or a function. "
        f"Received: {type(data).__name__}"
    )


def _collect(
    elements: Iterator[Any], inputs: InputSpecs, limit: int | None
) -> dict[str, np.ndarray]:
    batches: list[dict[str, np.ndarray]] = []
    count = 0
    for element in elements:
        batch = _batch(element, inputs)
        batches.append(batch)
        count += len(next(iter(batch.values())))
        if limit is not None and count >= limit:
            break
    if not count:
        raise ValueError(
            "There are no calibration samples: the iterable ended at once. A generator can be "
            "read only once; pass a fresh one."
        )
    try:
        return {
            name: np.concatenate([batch[name] for batch in batches])[:limit]
            for name, _, _ in inputs
        }
    except ValueError as error:
        raise ValueError(
            f"All calibration batches need the same shape for each input ({error})."
        ) from error


def _evenly(samples: dict[str, np.ndarray], limit: int | None) -> dict[str, np.ndarray]:
    count = len(next(iter(samples.values())))
    if limit is None or count <= limit:
        return samples
    rows = np.linspace(0, count - 1, limit).round().astype(int)
    return {name: values[rows] for name, values in samples.items()}


def _batch(element: Any, inputs: InputSpecs) -> dict[str, np.ndarray]:
    """Turn one element, whatever its structure, into a batch for each input."""
    if isinstance(element, tuple) and 1 <= len(element) <= 3 and len(element) != len(inputs):
        # Keras' convention: (x,), (x, y) or (x, y, sample weight).
        element = element[0]
    elif isinstance(element, tuple) and len(element) == len(inputs) > 1:
        try:
            return _named(dict(zip((name for name, _, _ in inputs), element)), inputs)
        except ValueError:
            # Two inputs, but the pair is (x, y) and x holds them both.
            if not isinstance(element[0], Mapping | list | tuple):
                raise
            element = element[0]
    if isinstance(element, Mapping):
        return _named(element, inputs)
    if isinstance(element, list | tuple) and len(element) == len(inputs):
        return _named(dict(zip((name for name, _, _ in inputs), element)), inputs)
    if len(inputs) > 1:
        raise ValueError(
            f"The model has {len(inputs)} inputs, {[name for name, _, _ in inputs]}: each sample "
            "or batch must be a dictionary by name, or a list in that order. "
            f"Received: {_shown(element)}"
        )
    return _named({inputs[0][0]: element}, inputs)


def _named(element: Mapping[str, Any], inputs: InputSpecs) -> dict[str, np.ndarray]:
    names = [name for name, _, _ in inputs]
    unknown = [name for name in element if name not in names]
    missing = [name for name in names if name not in element]
    if unknown or missing:
        hint = did_you_mean(unknown[0], names) if unknown else ""
        raise ValueError(
            f"Calibration samples must be named like the inputs of the model, {names}.{hint} "
            f"Received: {list(element)}"
        )
    batch = {name: _shaped(element[name], name, shape) for name, shape, _ in inputs}
    counts = {name: len(values) for name, values in batch.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"All inputs need the same number of samples. Received: {counts}")
    return batch


def _shaped(values: Any, name: str, shape: Shape) -> np.ndarray:
    """Return a batch; a single sample gets the batch dimension in front."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Calibration samples for the input {name!r} are not a regular array ({error})."
        ) from error
    if array.dtype.kind not in "fiubV" or array.dtype.names:
        raise ValueError(
            f"Calibration samples for the input {name!r} must be numbers. "
            f"Received: dtype {array.dtype}"
        )
    wanted = tuple(shape)
    given = array.shape[1:] if array.ndim == len(wanted) + 1 else array.shape
    fits = len(given) == len(wanted) and all(
        size in (None, seen) for size, seen in zip(wanted, given)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(
            f"Calibration samples for the input {name!r} must have the shape (samples, "
            f"{expected}), or ({expected}) one by one. Received: {array.shape}"
        )
    if array.ndim == len(wanted):
        array = array[None]
    if not len(array):
        raise ValueError(f"There are no calibration samples for {name!r}. Received: {array.shape}")
    return array


def _checked(values: np.ndarray, name: str, dtype: str) -> np.ndarray:
    # bfloat16 arrays (kind V) come from other libraries and know how to become float32.
    numbers = values.astype(np.float32) if values.dtype.kind in "fV" else values
    finite = np.isfinite(numbers) if numbers.dtype.kind == "f" else np.ones(1, bool)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"Calibration samples must be finite. Received: {numbers[where]} in sample {where[0]} "
            f"of the input {name!r}, at position {where[1:]}; {(~finite).sum()} values in all"
        )
    wanted: np.dtype[Any] = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(np.float32)
    if wanted.kind in "iu" and numbers.dtype.kind == "f" and (numbers != np.round(numbers)).any():
        raise ValueError(
            f"The input {name!r} takes {dtype}. Received: samples of dtype {values.dtype} that are "
            "not whole numbers"
        )
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        low, high = numbers.min(), numbers.max()
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"The input {name!r} takes {dtype}, from {limits.min} to {limits.max}. "
                f"Received: samples from {low} to {high}"
            )
    return numbers.astype(wanted)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {tuple(shape)}" if shape is not None else type(value).__name__

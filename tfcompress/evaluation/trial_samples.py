"""A few samples on which variants of a model are tried: inputs by name, labels where there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.datasets import Dataset, load
from tfcompress.datasets.arrays import checked_split, collect, is_tf_dataset, take
from tfcompress.datasets.calibration import InputSpecs, calibration_samples


@dataclass(frozen=True)
class TrialSamples:
    """Samples that a model is run on again and again.

    Attributes:
        inputs: Arrays of shape `(n, ...)` by input name, in the order of the model's inputs.
        labels: Shape `(n,)` or `(n, ...)`; `None` without labels.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> Iterator[list[np.ndarray]]:
        """Yield batches of one size, the last one filled up with the first samples.

        One size means one compiled function. Cut what comes out after `count` samples.

        Args:
            size: Samples in a batch.
        """
        for start in range(0, self.count, size):
            rows = np.arange(start, start + size) % self.count
            yield [values[rows] for values in self.inputs.values()]


def trial_samples(data: Any, inputs: InputSpecs, limit: int | None = 512) -> TrialSamples:
    """Take evenly spaced samples from whatever holds them.

    Args:
        data: `(x, y)`, a `tf.data.Dataset` of `(x, y)` batches, a tfcompress `Dataset` or the spec
            of one (its validation split is used, or the training split where it has none); or
            inputs without labels in any form that `calibration` has.
        inputs: `(name, shape without the batch, dtype)` of each model input.
        limit: Most samples to take. Defaults to 512; `None` takes all.

    Returns:
        The samples.

    Raises:
        ValueError: If there are none, or they do not fit the inputs.
        TypeError: If `data` is none of the above.
    """
    split = _labelled(data)
    if split is None:
        return TrialSamples(calibration_samples(data, inputs, limit), None)
    x, y = split
    if limit is not None and len(y) > limit:
        rows = np.linspace(0, len(y) - 1, limit).round().astype(int)
        x, y = take(x, rows), y[rows]
    if isinstance(x, (list, tuple)) and len(inputs) == 1:
        x = x[0]
    return TrialSamples(calibration_samples(x, inputs, None), y)


def _labelled(data: Any) -> tuple[Any, np.ndarray] | None:
    """Inputs and labels, or None where there are no labels."""
    if isinstance(data, (str, os.PathLike)) and _names_labels(data):
        data = load(data)
    if isinstance(data, Dataset):
        split = data.validation or data.train
        return checked_split(split.x, split.y, f"a split of {data.name!r}")
    if is_tf_dataset(data):
        return collect(data) if isinstance(data.element_spec, tuple) else None
    if isinstance(data, tuple) and len(data) == 2:
        return checked_split(data[0], data[1], "data")
    return None


def _names_labels(data: str | os.PathLike[str]) -> bool:
    """Whether a name stands for a data set with labels."""
    name = os.fspath(data)
    if not name.endswith(".npz") or not os.path.isfile(name):
        return name == "digits" or name.startswith("tfds:")
    with np.load(name, allow_pickle=False) as content:
        return not {"y", "y_train"}.isdisjoint(content.files)

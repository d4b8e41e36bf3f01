"""The samples that entries are compared on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.datasets import Dataset, load
from tfcompress.datasets.arrays import checked_split, collect, is_tf_dataset


@dataclass(frozen=True)
class Samples:
    """Inputs and labels to compare on.

    Attributes:
        name: What they are called in the report.
        x: Array of shape `(n, ...)`, or a dict or list of such.
        y: Labels of shape `(n,)` or `(n, ...)`.
        classes: Class names, if known.
    """

    name: str
    x: Any
    y: np.ndarray
    classes: tuple[str, ...] | None = None


def read_samples(data: Any) -> Samples:
    """Return the samples that `data` stands for.

    Args:
        data: `(x, y)`, a `tf.data.Dataset` of `(x, y)` batches, a `Dataset` or the spec of one
            (its test split is used).

    Raises:
        ValueError: If it is none of these, or x and y are empty, not numeric or of different
            lengths.
    """
    if isinstance(data, (str, os.PathLike)):
        data = load(data)
    if isinstance(data, Dataset):
        split = checked_split(data.test.x, data.test.y, f"the test split of {data.name!r}")
        return Samples(f"{data.name} (test split)", split.x, split.y, data.classes)
    if is_tf_dataset(data):
        return Samples("tf.data", *collect(data))
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Samples("arrays", *checked_split(data[0], data[1], "data"))
    raise ValueError(
        "`data` must be (x, y), a tf.data.Dataset of (x, y) batches, a tfcompress Dataset, or a "
        f"data set spec such as 'digits'. Received: {type(data).__name__}"
    )

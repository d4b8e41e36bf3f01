"""One function that loads any data set that a recipe, a command line or a notebook names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfcompress.datasets.arrays import checked_split, class_names, collect, divide, is_tf_dataset
from tfcompress.datasets.dataset import Dataset, Split
from tfcompress.datasets.digits import DEFAULT_PREPROCESSING, load_digits
from tfcompress.datasets.npz import load_npz
from tfcompress.datasets.preprocessing import Preprocessing
from tfcompress.datasets.tfds import default_preprocessing, load_tfds

KNOWN_SPECS = ("digits", "tfds:mnist", "tfds:fashion_mnist", "tfds:cifar10", "tfds:<name>")
TEST_FRACTION = 0.2


def load(
    spec: Any = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    validation: float = 0.0,
    download: bool = False,
) -> Dataset:
    """Load a data set into memory as NumPy arrays.

    Splits are the same at every call, so that a model trained in one process can be judged in
    another.

    Args:
        spec: What to load:

            - `"digits"`: scikit-learn's bundled 8x8 digits, 1,437 for training and 360 for testing,
              in 0 … 1. Needs no download.
            - `"tfds:<name>"`: a TensorFlow Datasets name, such as `"tfds:mnist"`, prepared in
              `data_dir`. 8-bit images are scaled to 0 … 1.
            - a path ending in `.npz` with `x_train`, `y_train`, `x_test`, `y_test`, or `x`, `y`.
            - `(x, y)`, a `tf.data.Dataset` of `(x, y)` batches, or a `(train, test)` pair of those.
            - a `Dataset`, which is returned as it is.

            Where there is no test split, a fixed fifth of the samples becomes one.
        data_dir: Folder of prepared TFDS data sets. Defaults to TFDS' own default.
        preprocessing: A `Preprocessing`, or its dict, in place of the data set's default.
        validation: Share of the training samples to set aside as the validation split. Defaults to
            0: none, unless the data set has one of its own.
        download: Let TFDS download what is not prepared. Defaults to `False`.

    Returns:
        The data set; `x` has shape `(n, ...)`, `y` has shape `(n,)` or `(n, ...)`.

    Raises:
        ValueError: If the spec is unknown (the nearest known one is named), the arrays are empty,
            not numeric or of different lengths, or an argument is out of range.
        FileNotFoundError: If a file, or a TFDS data set in `data_dir`, is not there.

    Example:

    ```python
    data = tfc.datasets.load("digits", validation=0.1)
    model.fit(*data.train, validation_data=data.validation)
    report = tfc.compare({"float": model, "int8": artifact}, data)
    ```
    """
    if isinstance(spec, Dataset):
        return spec
    if isinstance(preprocessing, Mapping):
        preprocessing = Preprocessing.from_dict(preprocessing)
    if not 0 <= validation < 1:
        raise ValueError(
            f"`validation` is a share of the training samples, in [0, 1). Received: {validation!r}"
        )

    own_validation: Split | None = None
    default = Preprocessing()
    if isinstance(spec, (str, os.PathLike)):
        name = os.fspath(spec)
        if name == "digits":
            train, test = load_digits()
            classes = class_names(train.y, test.y)
            default = DEFAULT_PREPROCESSING
        elif name.startswith("tfds:") and len(name) > len("tfds:"):
            train, test, own_validation, classes = load_tfds(name[5:], data_dir, download)
            default = default_preprocessing(train.x)
        elif name.endswith(".npz"):
            train, test = load_npz(Path(name).expanduser())
            classes = class_names(train.y, test.y)
        else:
            raise ValueError(_unknown(name))
    else:
        name, train, test = _from_memory(spec)
        classes = class_names(train.y, test.y)

    if validation:
        train, own_validation = divide(train, validation)
    steps = default if preprocessing is None else preprocessing
    return Dataset(
        name=name,
        train=Split(steps.apply(train.x), train.y),
        test=Split(steps.apply(test.x), test.y),
        validation=own_validation and Split(steps.apply(own_validation.x), own_validation.y),
        classes=classes,
        preprocessing=steps,
    )


def _from_memory(spec: Any) -> tuple[str, Split, Split]:
    if is_tf_dataset(spec):
        return "tf.data", *divide(collect(spec), TEST_FRACTION)
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        first, second = spec
        if is_tf_dataset(first) and is_tf_dataset(second):
            return "tf.data", collect(first, "train"), collect(second, "test")
        if all(isinstance(part, (tuple, list)) and len(part) == 2 for part in spec):
            return (
                "arrays",
                checked_split(first[0], first[1], "train"),
                checked_split(second[0], second[1], "test"),
            )
        return "arrays", *divide(checked_split(first, second, "(x, y)"), TEST_FRACTION)
    raise ValueError(
        "A data set is 'digits', 'tfds:<name>', the path of an .npz file, (x, y), a "
        f"tf.data.Dataset, or a (train, test) pair of those. Received: {type(spec).__name__}"
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*KNOWN_SPECS, "mnist", "cifar10"], n=1, cutoff=0.5)
    match = near[0] if near else None
    if match in ("mnist", "cifar10"):
        match = f"tfds:{match}"
    hint = f" Did you mean {match!r}?" if match else ""
    return (
        f"Unknown data set {name!r}.{hint} Known: 'digits', 'tfds:<name>' (with data_dir), or the "
        "path of an .npz file."
    )

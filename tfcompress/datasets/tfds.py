"""TensorFlow Datasets, read from a folder where they were prepared."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.datasets.arrays import checked_split, divide
from tfcompress.datasets.dataset import Split
from tfcompress.datasets.preprocessing import Preprocessing

TEST_FRACTION = 0.2


def load_tfds(
    name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[Split, Split, Split | None, tuple[str, ...] | None]:
    """Read a prepared TFDS data set into memory.

    Args:
        name: TFDS name, with configuration and version if wanted: `"mnist"`,
            `"cifar10_corrupted/fog_1:1.0.0"`.
        data_dir: Where it was prepared. Defaults to TFDS' own default
            (`$TFDS_DATA_DIR`, else `~/tensorflow_datasets`).
        download: Download and prepare it if it is missing. Defaults to `False`.

    Returns:
        `(train, test, validation or None, class names or None)`. A set without a `test` split
        is tested on `validation`; one with `train` alone gives a fixed fifth of it.

    Raises:
        ValueError: If TFDS does not know the name, or its samples are not `(x, y)` arrays of one
            shape.
        FileNotFoundError: If it is not prepared in `data_dir` and `download` is `False`.
        ImportError: If tensorflow-datasets is not installed.
    """
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        if not download:
            raise FileNotFoundError(_how_to_prepare(name, Path(builder.data_dir)))
        builder.download_and_prepare()
    keys = builder.info.supervised_keys
    if keys is None:
        raise ValueError(
            f"TFDS data set {name!r} does not say which features are input and label, so it cannot "
            "be loaded as (x, y). Pass a tf.data.Dataset of (x, y) batches instead."
        )
    splits = {
        split: _read(builder, name, split)
        for split in ("train", "validation", "test")
        if split in builder.info.splits
    }
    if "train" not in splits:
        raise ValueError(
            f"TFDS data set {name!r} has no 'train' split. Its splits: "
            f"{sorted(builder.info.splits)}"
        )
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    if test is None and validation is not None:
        test, validation = validation, None
    if test is None:
        train, test = divide(train, TEST_FRACTION)
    names = getattr(builder.info.features[keys[-1]], "names", None)
    return train, test, validation, tuple(names) if names else None


def default_preprocessing(x: np.ndarray) -> Preprocessing:
    """Return a scale to 0 … 1 for 8-bit images, and nothing for any other input."""
    return Preprocessing(scale=1 / 255) if x.dtype == np.uint8 else Preprocessing()


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"Loading 'tfds:{name}' needs tensorflow-datasets: pip install tensorflow-datasets"
        ) from error
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        plain = name.split("/")[0].split(":")[0]
        prepared = _prepared(Path(folder)) if folder is not None else []
        known = [*prepared, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(plain, known, n=3)
        hint = f" Did you mean {' or '.join(repr(f'tfds:{match}') for match in near)}?"
        raise ValueError(
            f"TFDS knows no data set {plain!r}, and none is prepared under that name in "
            f"{folder or 'its default folder'}.{hint if near else ''} Received: 'tfds:{name}'"
        ) from error


def _read(builder: Any, name: str, split: str) -> Split:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    shape = getattr(builder.info.features[keys[0]], "shape", ())
    if shape is None or None in shape:
        raise ValueError(
            f"The inputs of TFDS data set {name!r} vary in shape ({shape}), so they do not fit one "
            "array. Resize them in a tf.data pipeline and pass that instead."
        )
    try:
        x, y = tfds.as_numpy(
            builder.as_dataset(split=split, batch_size=-1, as_supervised=True, shuffle_files=False)
        )
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"The {split} split of TFDS data set {name!r} in {builder.data_dir} is damaged or "
            f"incomplete; prepare it again. ({str(error).splitlines()[0]})"
        ) from error
    return checked_split(x, y, f"the {split} split of 'tfds:{name}'")


def _prepared(data_dir: Path) -> list[str]:
    return sorted({path.parent.parent.name for path in data_dir.glob("*/*/dataset_info.json")})


def _how_to_prepare(name: str, data_dir: Path) -> str:
    # builder.data_dir is <data_dir>/<name>[/<config>]/<version>.
    root = next(
        (folder.parent for folder in data_dir.parents if folder.name == name.split("/")[0]),
        data_dir.parent.parent,
    )
    root = root if ":" not in name else data_dir.parent.parent
    prepared = _prepared(root)
    return (
        f"TFDS data set {name!r} is not prepared in {root} (looked for {data_dir}). "
        f"Prepared there: {', '.join(prepared) or 'nothing'}. Pass the data_dir where it is, or "
        f'prepare it on a machine with network access: python -c "import tensorflow_datasets as '
        f"tfds; tfds.load('{name}', data_dir='{root}')\""
    )

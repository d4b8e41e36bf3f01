"""CIFAR-10 for the benchmarks: decoded once, augmented with a seed, the same for every library."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PADDING = 4


def add_data_dir(parser: argparse.ArgumentParser, sets: str = "cifar10") -> None:
    """Adds `--data-dir` to the options of a benchmark that reads these `sets` from TFDS."""
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("TFCOMPRESS_DATA_DIR"),
        help=f"TFDS data folder with {sets}; default: $TFCOMPRESS_DATA_DIR, else TFDS downloads",
    )


def load(data_dir: str | None, cache: Path) -> dict[str, np.ndarray]:
    """Decoded CIFAR-10 as uint8 arrays, read from TFDS once and then from `cache`.

    Args:
        data_dir: A TFDS data folder, or None for TFDS' default (which downloads).
        cache: The `.npz` file that keeps the decoded images.

    Returns:
        `x_train` (50000, 32, 32, 3) uint8, `y_train` (50000,) int64, `x_test`, `y_test`.
    """
    if not cache.exists():
        import tensorflow_datasets as tfds

        arrays = {}
        for split in ("train", "test"):
            dataset = tfds.load(
                "cifar10",
                split=split,
                data_dir=data_dir,
                download=data_dir is None,
                batch_size=-1,
                as_supervised=True,
            )
            arrays[f"x_{split}"], arrays[f"y_{split}"] = tfds.as_numpy(dataset)
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside = cache.with_suffix(".aside.npz")
        np.savez(aside, **arrays)
        os.replace(aside, cache)
    with np.load(cache) as stored:
        return {name: stored[name] for name in stored.files}


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 images as the models take them: float32 in `[0, 1]`."""
    return images.astype(np.float32) * np.float32(1 / 255)


def augmented_batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    size: int = 32,
    padding: int = PADDING,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless shuffled batches of random square crops, half of them mirrored.

    Images are padded with zeros where the crop has the size of the image (shifts of up to `padding`
    pixels); smaller crops come from inside the image. The stream depends on `seed` and the
    epoch number only, so every library sees the same images in the same order, and a resumed
    training continues where it was. The last incomplete batch of an epoch is dropped.

    Args:
        images: `(n, 32, 32, 3)` uint8.
        labels: `(n,)` integers.
        batch_size: Images a batch.
        seed: Seed of order and augmentation.
        first_epoch: The epoch to start with. Defaults to 0.
        size: Height and width of the crops in pixels. Defaults to 32.
        padding: Pixels of zeros on each side. Defaults to 4.

    Yields:
        `(batch_size, size, size, 3)` float32 in `[0, 1]` and `(batch_size,)` labels.
    """
    channels = images.shape[-1]
    if size == images.shape[1]:
        images = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # One axis for the bytes of an image row, because copying whole rows is several times faster
    # than indexing pixels.
    rows = images.reshape(len(images), images.shape[1], -1)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (size, size * channels), axis=(1, 2))[
        :, :, ::channels
    ]
    epoch = first_epoch
    while True:
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(images))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            top, left = generator.integers(0, windows.shape[1], (2, batch_size))
            batch = windows[chosen, top, left].reshape(-1, size, size, channels)
            mirrored = generator.random(batch_size) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
            yield scaled(batch), labels[chosen]
        epoch += 1


def training_stream(
    arrays: dict[str, np.ndarray],
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    size: int = 32,
    padding: int = PADDING,
) -> tuple[Any, int]:
    """The augmented training images as a prefetching `tf.data.Dataset`, and the steps an epoch."""
    import tensorflow as tf

    images, labels = arrays["x_train"], arrays["y_train"]
    dataset = tf.data.Dataset.from_generator(
        lambda: augmented_batches(images, labels, batch_size, seed, first_epoch, size, padding),
        output_signature=(
            tf.TensorSpec((batch_size, size, size, images.shape[-1]), tf.float32),
            tf.TensorSpec((batch_size,), tf.int64),
        ),
    )
    return dataset.prefetch(4), len(images) // batch_size

"""Training batches that depend on nothing but the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.datasets import Split
from tfcompress.datasets.arrays import take

CROP_PIXELS = 4


class TrainingBatches(keras.utils.PyDataset):
    """Shuffled and, where asked for, augmented batches of a split.

    Every batch is a function of `(seed, epoch, index)`. A training that is resumed at an epoch
    therefore sees the batches that it would have seen without the interruption.

    Args:
        split: Samples; `x` of shape `(n, ...)`, or a dict or list of such, `y` of `(n, ...)`.
        batch_size: Samples in a batch; the last one of an epoch may hold fewer.
        seed: Seed of the shuffle and the augmentation.
        epoch: Epoch to start at.
        augmentation: Any of `"flip"` (left to right, with probability one half) and `"crop"`
            (shifted by up to 4 pixels each way, zeros moving in; He et al. 2016, section 4.2).

    Raises:
        ValueError: If augmentation is asked for and `x` is not one array of images
            `(n, height, width, channels)`.

    Example:

    ```python
    batches = TrainingBatches(data.train, batch_size=64, seed=1, augmentation=["flip"])
    model.fit(batches, epochs=3)
    ```
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        augmentation: Sequence[str] = (),
    ):
        super().__init__()
        if augmentation and (not isinstance(split.x, np.ndarray) or split.x.ndim != 4):
            shape = getattr(split.x, "shape", type(split.x).__name__)
            raise ValueError(
                "`data.augmentation` needs images of shape (n, height, width, channels). "
                f"Received: {shape}"
            )
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = tuple(augmentation)
        self._start(epoch)

    def _start(self, epoch: int) -> None:
        self._epoch = epoch
        self._order = np.random.default_rng([self._seed, epoch]).permutation(self._split.size)

    def __len__(self) -> int:
        return math.ceil(self._split.size / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        x = take(self._split.x, rows)
        if self._augmentation:
            x = self._augment(x, np.random.default_rng([self._seed, self._epoch, index]))
        return x, self._split.y[rows]

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._start(self._epoch + 1)

    def _augment(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if "flip" in self._augmentation:
            x = np.where(random.random((len(x), 1, 1, 1)) < 0.5, x[:, :, ::-1], x)
        if "crop" in self._augmentation:
            pad = CROP_PIXELS
            height, width = x.shape[1:3]
            padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            top, left = random.integers(0, 2 * pad + 1, (2, len(x), 1))
            rows = (top + np.arange(height))[:, :, None]
            columns = (left + np.arange(width))[:, None, :]
            x = padded[np.arange(len(x))[:, None, None], rows, columns]
        return x

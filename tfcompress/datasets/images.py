"""A folder of image files as calibration samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# A file that unpacks to more is an attack or a mistake.
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageFolder:
    """Image files in a folder and the folders in it, as a model takes them.

    Images are read in RGB, as grey values, or with transparency, as the model's last dimension
    asks, resized to its input by bilinear interpolation, and scaled: `pixel * scale + offset`, with
    pixels from 0 to 255. This must be what was done in training.

    Args:
        path: The folder. Files with other suffixes than those of images are passed over.
        scale: Factor on the pixels. Defaults to 1/255 for inputs that take floats, so that values
            go from 0 to 1, and to 1 for inputs that take integers.
        offset: Added after the scaling. Defaults to 0.
        size: Height and width, needed only where the model leaves them open. Defaults to None.

    Example:

    ```python
    samples = tfcompress.datasets.ImageFolder("photos", scale=1 / 127.5, offset=-1)
    tfcompress.convert("model.keras", "model.tflite", calibration=samples)
    ```
    """

    path: str | os.PathLike[str]
    scale: float | None = None
    offset: float = 0.0
    size: tuple[int, int] | None = None

    def read(self, shape: Sequence[int | None], dtype: str, limit: int | None = 256) -> np.ndarray:
        """Read images, evenly spaced in the order of their paths.

        Args:
            shape: Shape of a sample: height, width and channels, None where open.
            dtype: NumPy name of the type of the input.
            limit: Most images to read; None for all.

        Returns:
            An array of shape (n, height, width, channels), float32, or uint8 for inputs that take
            integers.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If there are no images, one cannot be read, or the shape is no image's.
        """
        height, width, channels = self._sizes(shape)
        files = self._files()
        if limit is not None and len(files) > limit:
            files = [files[i] for i in np.linspace(0, len(files) - 1, limit).round().astype(int)]
        pixels = np.stack([self._read(file, height, width, channels) for file in files])
        scale = self._scale(dtype)
        if not dtype.startswith(("float", "bfloat")) and (scale, self.offset) == (1.0, 0.0):
            return pixels
        return pixels.astype(np.float32) * np.float32(scale) + np.float32(self.offset)

    def describe(self, dtype: str) -> str:
        """What is done to the pixels, in words."""
        scale = self._scale(dtype)
        ends = [value * scale + self.offset for value in (0, 255)]
        return f"pixels scaled by {scale:.6g} and {self.offset:+g}: {ends[0]:g} to {ends[1]:g}"

    def _scale(self, dtype: str) -> float:
        if self.scale is not None:
            return self.scale
        return 1 / 255 if dtype.startswith(("float", "bfloat")) else 1.0

    def _sizes(self, shape: Sequence[int | None]) -> tuple[int, int, int]:
        if len(shape) != 3 or shape[-1] not in _MODES:
            raise ValueError(
                "A folder of images fits an input of shape (height, width, channels) with 1, 3 or "
                f"4 channels. Received: an input of shape {tuple(shape)} for {self.path}"
            )
        sizes = [given or fixed for given, fixed in zip(shape, self.size or (None, None))]
        height, width = sizes
        if height is None or width is None:
            raise ValueError(
                "The model leaves the size of its images open: give "
                "`tfcompress.datasets.ImageFolder(path, size=(height, width))`. "
                f"Received: an input of shape {tuple(shape)}"
            )
        return height, width, int(shape[-1] or 0)

    def _files(self) -> list[Path]:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no such folder of images. Received: {folder}")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise ValueError(
                f"The folder holds no images ({', '.join(sorted(_SUFFIXES))}). Received: {folder}"
            )
        return files

    def _read(self, file: Path, height: int, width: int, channels: int) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(f"it has {image.width} by {image.height} pixels")
                mode = _MODES[channels]
                resized = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
                return np.asarray(resized, np.uint8).reshape(height, width, channels)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"The image cannot be read: {error}. Received: {file}") from error

"""Calibration samples named on a command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags


def define_calibration(values: flags.FlagValues) -> None:
    """Define the flags that name samples.

    Args:
        values: The holder of the command's flags.
    """
    flags.DEFINE_string(
        "calibration", None,
        "Samples to take activation ranges from: an .npz or .npy file, a folder of images, a data "
        "set such as digits or tfds:mnist, or package.module:function.",
        short_name="c", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "image_scale", None,
        "Factor on the pixels, 0 to 255, of a folder of images. Default: 1/255 for inputs that "
        "take floats, 1 for others.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "image_offset", 0.0, "Added to the scaled pixels of a folder of images.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "data_dir", None, "Folder of TensorFlow Datasets files.", flag_values=values
    )


def read_calibration(values: flags.FlagValues) -> Any:
    """Look up what the flags name.

    Args:
        values: The parsed flags of `define_calibration`.

    Returns:
        Anything that `calibration_samples` takes; None when no samples were named.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the name stands for nothing.
    """
    if values.calibration is None:
        return None
    from tfcompress.datasets.images import ImageFolder

    path = Path(values.calibration).expanduser()
    if path.is_dir():
        return ImageFolder(path, scale=values.image_scale, offset=values.image_offset)
    if path.suffix in (".npy", ".npz"):
        # Read when the inputs of the model are known.
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no such file of calibration samples. Received: {path}"
            )
        return path
    from tfcompress.datasets.named_samples import is_function, named_samples

    # As `python -m` has it: functions may be in a file of the folder one works in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if is_function(values.calibration):
        # Called where the samples are used: what it returns may be good for one reading only.
        return values.calibration
    return named_samples(values.calibration, (), values.data_dir)

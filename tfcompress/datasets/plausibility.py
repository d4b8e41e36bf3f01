"""Signs that calibration samples are not what the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Inputs of networks are around 1; 8-bit codes and audio samples are the largest in common use.
_LARGEST = 40_000.0


def doubts(samples: Mapping[str, np.ndarray]) -> list[str]:
    """Say what looks wrong with samples that are formally right.

    Args:
        samples: Arrays of shape (n, …) by input name, finite.

    Returns:
        A sentence for each sign; empty when there is none.
    """
    found = []
    for name, values in samples.items():
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if low == high:
            found.append(
                f"All values of {name!r} are {low:g}: the ranges will be those of one point."
            )
        elif len(values) > 1 and (values == values[0]).all():
            found.append(f"All {len(values)} samples of {name!r} are the same.")
        elif values.dtype.kind == "f" and max(-low, high) > _LARGEST:
            found.append(
                f"Values of {name!r} go from {low:.3g} to {high:.3g}: were they scaled as in "
                "training?"
            )
        elif values.dtype.kind == "f" and _are_pixels(values, low, high):
            found.append(
                f"Values of {name!r} are whole numbers from {low:g} to {high:g}, like pixels. If "
                "the model was trained on scaled images, scale these, too."
            )
    return found


def _are_pixels(values: np.ndarray, low: float, high: float) -> bool:
    image = values.ndim == 4 and values.shape[-1] in (1, 3, 4)
    return image and low >= 0 and 100 < high <= 255 and bool((values == np.rint(values)).all())

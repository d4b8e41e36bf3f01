"""Test samples on which a compressed model changed its mind."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfcompress.evaluation.problem import Problem
from tfcompress.evaluation.results import Disagreement

LIMIT = 12
THUMBNAIL_PIXELS = 64


def disagreements(
    problem: Problem, outputs: np.ndarray, baseline: np.ndarray, predicted: np.ndarray
) -> list[Disagreement]:
    """Return the samples on which two models predict different classes, clearest first.

    Args:
        problem: The classification.
        outputs: Outputs of the entry.
        baseline: Class ids that the baseline predicts, of shape `(n,)`.
        predicted: Class ids that the entry predicts, of shape `(n,)`.

    Returns:
        At most 12.
    """
    rows = np.flatnonzero(predicted != baseline)
    if problem.threshold is None:
        table = outputs.reshape(-1, problem.classes)
        margins = table[rows, predicted[rows]] - table[rows, baseline[rows]]
    else:
        margins = np.abs(outputs.reshape(-1)[rows] - problem.threshold)
    return [
        Disagreement(
            index=int(rows[i]),
            label=int(problem.labels[rows[i]]),
            baseline=int(baseline[rows[i]]),
            predicted=int(predicted[rows[i]]),
            margin=float(margins[i]),
        )
        for i in np.argsort(-margins, kind="stable")[:LIMIT]
    ]


def thumbnails(x: Any, indices: Iterable[int]) -> dict[str, str]:
    """Return small PNG pictures of samples, as data URIs by index.

    Args:
        x: Inputs. Anything but one array of images `(n, height, width, 1 or 3)` gives no pictures.
        indices: Which samples.
    """
    rows = sorted(set(indices))
    if not rows or not isinstance(x, np.ndarray) or x.ndim != 4 or x.shape[-1] not in (1, 3):
        return {}
    from PIL import Image

    step = max(1, -(-max(x.shape[1:3]) // THUMBNAIL_PIXELS))
    images = x[rows, ::step, ::step].astype(np.float64)
    low, high = _brightness_range(x.dtype, images)
    pixels = np.clip(np.round(255 * (images - low) / (high - low)), 0, 255).astype(np.uint8)
    pictures = {}
    for row, picture in zip(rows, pixels):
        content = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(
            content, format="PNG", optimize=True
        )
        encoded = base64.b64encode(content.getvalue()).decode("ascii")
        pictures[str(row)] = f"data:image/png;base64,{encoded}"
    return pictures


def _brightness_range(dtype: np.dtype, images: np.ndarray) -> tuple[float, float]:
    low, high = float(images.min()), float(images.max())
    if dtype == np.uint8:
        return 0.0, 255.0
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and 1 < high <= 255:
        return 0.0, high
    return low, max(high, low + 1e-6)

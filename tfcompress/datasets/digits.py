"""scikit-learn's bundled handwritten digits: real data that needs no download."""

from __future__ import annotations

import numpy as np

from tfcompress.datasets.arrays import divide
from tfcompress.datasets.dataset import Split
from tfcompress.datasets.preprocessing import Preprocessing

DEFAULT_PREPROCESSING = Preprocessing(scale=1 / 16)


def load_digits() -> tuple[Split, Split]:
    """Return 1,437 training and 360 test images of 8x8 pixels, the same ones every time.

    Returns:
        `(train, test)`: x of shape `(n, 8, 8, 1)`, uint8 in 0 … 16; y of shape `(n,)`, int64 in
        0 … 9.
    """
    from sklearn.datasets import load_digits as load_bundled

    bundle = load_bundled()
    images = bundle.images.astype(np.uint8)[..., None]
    return divide(Split(images, bundle.target.astype(np.int64)), 0.2)

"""Fixtures of the quantization tests."""

import numpy as np
import pytest


@pytest.fixture
def whole_codes():
    """Return a function that turns an observed range into what a range of 8 bits becomes.

    Its ends are whole codes, of a scale of 16 significant bits.
    """

    def expected(low, high):
        scale = np.float32(high - low) * np.float32(1 / 255)
        scale = 257 * scale - (257 * scale - scale)
        below = np.rint(np.float32(-low) / scale)
        return pytest.approx((float(-below * scale), float((255 - below) * scale)))

    return expected

"""NumPy's numbers as Python's, so that arguments take what comes out of a computation."""

from __future__ import annotations

from typing import Any

import numpy as np


def plain_number(value: Any) -> Any:
    """A NumPy scalar as the Python number that it stands for; anything else as it is.

    Example:

    ```python
    plain_number(np.float32(0.5))  # 0.5
    ```
    """
    return value.item() if isinstance(value, np.generic) else value

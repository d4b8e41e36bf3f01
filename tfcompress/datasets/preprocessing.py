"""What is done to stored inputs before a model sees them, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from tfcompress.hints import did_you_mean

VERSION = 1


@dataclass(frozen=True)
class Preprocessing:
    """What is done to stored inputs: `(x * scale + offset - mean) / std`.

    A compressed model is useless to whoever deploys it without this line, so it is data, not code:
    it goes into the recipe and into the sidecar of the exported file.

    Args:
        scale: Factor on the stored values, for example `1 / 255`. Defaults to 1.
        offset: Added after scaling, for example -1. Defaults to 0.
        mean: Subtracted after that: one number, or one per channel (the last axis).
            Defaults to none.
        std: Divided by at the end: one number, or one per channel. Defaults to none.
        dtype: Data type of the result. `None`, the default, gives float32 where anything else is
            asked for and keeps the stored type (token ids, say) where nothing is.

    Raises:
        ValueError: If a number is not finite, `std` or `scale` is zero, or `dtype` is unknown.

    Example:

    ```python
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.2))
    x = preprocessing.apply(images_uint8)  # (n, 32, 32, 3) float32
    Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    ```
    """

    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _number("scale", self.scale, zero=False))
        object.__setattr__(self, "offset", _number("offset", self.offset))
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std, zero=False))
        if self.dtype is not None and not _is_numeric(self.dtype):
            raise ValueError(
                "`dtype` must name a numeric NumPy type such as 'float32' or 'int32', or be "
                f"None. Received: dtype={self.dtype!r}"
            )

    @property
    def is_identity(self) -> bool:
        """Whether `apply` returns its input as it is."""
        return self == Preprocessing()

    def apply(self, x: Any) -> Any:
        """Return the preprocessed `x`.

        Args:
            x: Array of any shape and type, or a dict or list of arrays (identity only).

        Returns:
            An array of the same shape.

        Raises:
            ValueError: If `x` holds several inputs and this is not the identity, or `mean` or
                `std` has one number per channel and `x` has another number of channels.
        """
        if self.is_identity:
            return x
        if isinstance(x, (Mapping, list, tuple)):
            raise ValueError(
                "Preprocessing describes one input; for a model with several, preprocess the "
                f"arrays first and leave it out. Received: {self} for {len(x)} inputs"
            )
        x = np.asarray(x)
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) > 1 and x.shape[-1:] != (len(numbers),):
                raise ValueError(
                    f"`{name}` has {len(numbers)} numbers, one per channel, but the inputs have "
                    f"shape {x.shape}, channels last. Received: {name}={numbers}"
                )
        if self.scale == 1.0 and self.offset == 0.0 and self.mean is None and self.std is None:
            return x.astype(self.dtype, copy=False)
        result = x.astype(np.float32)
        result *= np.float32(self.scale)
        result += np.float32(self.offset)
        if self.mean is not None:
            result -= np.asarray(self.mean, np.float32)
        if self.std is not None:
            result /= np.asarray(self.std, np.float32)
        return result.astype(self.dtype or np.float32, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON- and YAML-ready dict; `from_dict` is its inverse."""
        config = {"version": VERSION, **asdict(self)}
        for name in ("mean", "std"):
            if config[name] is not None:
                config[name] = list(config[name])
        return config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Rebuild what `to_dict` described.

        Args:
            config: Any of the arguments of `Preprocessing`, and optionally `version`.

        Raises:
            ValueError: If a key is unknown (the nearest known one is named), a value is of the
                wrong type, or the version is newer than this one.
        """
        known = [field.name for field in fields(cls)]
        values = dict(config)
        version = values.pop("version", VERSION)
        if version != VERSION:
            raise ValueError(
                f"Preprocessing has version {VERSION} here. Received: version={version!r}; "
                "update tfcompress to read it."
            )
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known)
                raise ValueError(
                    f"Unknown preprocessing key {key!r}.{hint} Known keys: {', '.join(known)}."
                )
        return cls(**values)

    def __str__(self) -> str:
        parts = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return ", ".join(parts) or "none"


def _is_numeric(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:
        return False


def _number(name: str, value: Any, zero: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}")
    if not math.isfinite(value) or (value == 0 and not zero):
        allowed = "finite" if zero else "finite and not zero"
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return float(value)


def _numbers(name: str, value: Any, zero: bool = True) -> tuple[float, ...] | None:
    if value is None:
        return None
    if isinstance(value, (int, float, np.number)):
        value = (value,)
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(
            f"`{name}` must be a number or a list of one number per channel. "
            f"Received: {name}={value!r}"
        )
    return tuple(_number(name, item, zero) for item in value)

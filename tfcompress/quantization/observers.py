"""Observers: what range a tensor is quantized over, from the values that it shows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from keras import ops

from tfcompress.hints import did_you_mean

# Values of one batch that an observer with a distribution looks at in a training step: their order
# or their errors cost little, and batches are averaged.
_SORTED = 8192
_SEARCHED = 4096

# Batch size that samples are spread over when it is not known.
_TYPICAL_BATCH = 32


@dataclass(frozen=True)
class Observer(ABC):
    """Finds a range in each batch; `ActivationQuantizer` combines those of the batches.

    Args:
        momentum: Share of the old range in the moving average over batches. The average is
            corrected for its start (Kingma & Ba 2015, section 3): after few batches it is nearly
            their mean. Defaults to 0.99.
    """

    momentum: float = 0.99

    # The name by which configs and recipes call it.
    name: ClassVar[str]
    # Whether the range only grows, in training and in calibration.
    widens_in_training: ClassVar[bool] = False
    widens_in_calibration: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {self.momentum}")

    @abstractmethod
    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """The range that one tensor of a batch wants.

        Args:
            x: Float32 tensor of any shape.
            bits: Width of the codes.
            thorough: Whether to look at all values rather than at a sample.

        Returns:
            The lower and the upper end, float32 scalars.
        """

    def get_config(self) -> dict[str, Any]:
        """The name and the arguments that make an equal observer."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class MinMax(Observer):
    """The smallest and the largest value of all batches: the range never shrinks."""

    name: ClassVar[str] = "min_max"
    widens_in_training: ClassVar[bool] = True
    widens_in_calibration: ClassVar[bool] = True

    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """The extremes."""
        return ops.min(x), ops.max(x)


@dataclass(frozen=True)
class MovingAverage(Observer):
    """The moving average of the extremes of training batches; all extremes in calibration.

    Reference: Jacob et al. 2018, section 3.1; Krishnamoorthi 2018, section 2.6.
    """

    name: ClassVar[str] = "moving_average"
    widens_in_calibration: ClassVar[bool] = True

    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """The extremes."""
        return ops.min(x), ops.max(x)


@dataclass(frozen=True)
class Percentile(Observer):
    """The range that leaves out a share of outliers at either end.

    Args:
        percentile: Percentage of the values below the upper end, and above the lower. Defaults to
            99.99.

    Reference: Wu et al. 2020, "Integer Quantization for Deep Learning Inference", section 4.1.

    Example:

    ```python
    tfcompress.Scheme(observer={"name": "percentile", "percentile": 99.9})
    ```
    """

    percentile: float = 99.99

    name: ClassVar[str] = "percentile"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 50 < self.percentile <= 100:
            raise ValueError(f"`percentile` must be in (50, 100]. Received: {self.percentile}")

    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """The percentiles, by sorting."""
        values = ops.sort(_values(x, None if thorough else _SORTED))
        last = ops.cast(ops.shape(values)[0] - 1, "float32")
        upper = ops.cast(ops.ceil(last * (self.percentile / 100)), "int32")
        lower = ops.cast(last, "int32") - upper
        return ops.take(values, lower), ops.take(values, upper)


@dataclass(frozen=True)
class MSE(Observer):
    """The range, among shrunken copies of the whole one, that rounds and clips with least error.

    Args:
        candidates: Number of ranges tried, from the whole one down to a tenth. Defaults to 24.

    Reference: Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1.
    """

    candidates: int = 24

    name: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2:
            raise ValueError(f"`candidates` must be at least 2. Received: {self.candidates}")

    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """Try all candidates on the same values."""
        low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
        # 64 times the sample still fits the memory, with a row for each candidate.
        values = _values(x, 64 * _SEARCHED if thorough else _SEARCHED)[None, :]
        shares = ops.linspace(1.0, 0.1, self.candidates)[:, None]
        levels = 2**bits - 1
        scale = ops.maximum(shares * (high - low) / levels, 1e-12)
        zero_point = ops.round(-shares * low / scale)
        codes = ops.clip(ops.round(values / scale) + zero_point, 0, levels)
        errors = ops.mean(ops.square((codes - zero_point) * scale - values), axis=1)
        best = ops.take(shares[:, 0], ops.argmin(errors))
        return best * low, best * high


@dataclass(frozen=True)
class OCTAV(Observer):
    """Clips where the error of clipping balances that of rounding, by Newton's method.

    The whole range is kept where clipping does not pay.

    Args:
        iterations: Steps of Newton's method. Defaults to 10.

    Reference: Sakr et al. 2022, "Optimal Clipping and Magnitude-aware Differentiation for Improved
    Quantization-aware Training", equation 6.
    """

    iterations: int = 10

    name: ClassVar[str] = "octav"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"`iterations` must be at least 1. Received: {self.iterations}")

    def find(self, x: Any, bits: int, thorough: bool) -> tuple[Any, Any]:
        """Solve for the clipping magnitude, and cut the range to it on both sides."""
        low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
        magnitudes = ops.abs(_values(x, None if thorough else _SORTED))
        # The codes of a range [-s, s] are twice as far apart as those of [0, s].
        widest = ops.maximum(high, -low)
        span = (high - low) / ops.maximum(widest, 1e-12)
        noise = ops.square(span) * 4.0**-bits / 12.0
        limit = octav_limit(magnitudes, noise, axis=0, iterations=self.iterations)[0]
        return ops.maximum(low, -limit), ops.minimum(high, limit)


def octav_limit(magnitudes: Any, noise: Any, axis: Any, iterations: int) -> Any:
    """Solve for the clipping magnitude of least squared error.

    Args:
        magnitudes: Float32 tensor of absolute values.
        noise: Rounding error at a clipping magnitude of 1: the squared step over 12.
        axis: Axes that share one clipping magnitude.
        iterations: Steps of Newton's method.

    Returns:
        The clipping magnitudes, at most the largest values, with `axis` kept as size 1.
    """
    largest = ops.max(magnitudes, axis=axis, keepdims=True)
    nonzero = ops.cast(magnitudes > 0, "float32")
    count = ops.maximum(ops.sum(nonzero, axis=axis, keepdims=True), 1.0)
    limit = ops.sum(magnitudes, axis=axis, keepdims=True) / count
    for _ in range(iterations):
        clipped = ops.cast(magnitudes > limit, "float32")
        beyond = ops.sum(clipped, axis=axis, keepdims=True)
        total = ops.sum(magnitudes * clipped, axis=axis, keepdims=True)
        limit = total / ops.maximum(noise * (count - beyond) + beyond, 1e-12)
        # Past the largest value nothing is clipped, and the next step would lead to zero.
        limit = ops.minimum(ops.where(beyond > 0, limit, largest), largest)
    return limit


OBSERVERS: dict[str, type[Observer]] = {
    kind.name: kind for kind in (MinMax, MovingAverage, Percentile, MSE, OCTAV)
}


def get(identifier: str | Mapping[str, Any] | Observer) -> Observer:
    """Return the observer that a name, a config or an observer stands for.

    Args:
        identifier: `"min_max"`, `"moving_average"`, `"percentile"`, `"mse"`, `"octav"`; a mapping
            with such a `name` and its arguments; or an observer.

    Raises:
        ValueError: If the name or an argument is not known; the message lists the known ones.
        TypeError: If `identifier` is something else.

    Example:

    ```python
    get({"name": "percentile", "percentile": 99.9})
    ```
    """
    if isinstance(identifier, Observer):
        return identifier
    if isinstance(identifier, str):
        identifier = {"name": identifier}
    if not isinstance(identifier, Mapping):
        raise TypeError(f"An observer is a name, a mapping or an `Observer`. Got: {identifier!r}")
    arguments = dict(identifier)
    name = arguments.pop("name", None)
    if name not in OBSERVERS:
        hint = did_you_mean(name, OBSERVERS)
        raise ValueError(f"Unknown observer.{hint} Known: {sorted(OBSERVERS)}. Received: {name!r}")
    kind = OBSERVERS[name]
    known = list(kind.__dataclass_fields__)
    unknown = [key for key in arguments if key not in known]
    if unknown:
        raise ValueError(
            f"The observer {name!r} takes the arguments {known}. Received: {unknown[0]!r}"
        )
    return kind(**arguments)


def _values(x: Any, count: int | None) -> Any:
    """The values of a tensor, or about `count` of them spread over all its dimensions."""
    flat = ops.reshape(x, (-1,))
    if count is None:
        return flat
    sizes = [_TYPICAL_BATCH if size is None else size for size in x.shape]
    stride = max(1, math.prod(sizes) // count)
    # A common factor with the last dimension would leave some channels out.
    while stride > 1 and sizes and math.gcd(stride, sizes[-1]) > 1:
        stride -= 1
    return flat[::stride][: 2 * count]

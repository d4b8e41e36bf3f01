"""Cross-layer equalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from tfcompress.quantization.post_training.algorithm import (
    Algorithm,
    LayerOutcome,
    Outcome,
    register,
)
from tfcompress.quantization.post_training.channel_pairs import ChannelPair, channel_extremes

RANGES = ("weights", "activations")

# A channel that hits its limit on the samples, up to float noise.
_CLIPPED = 1 - 1e-5
_CONVERGED = 1e-3


@register("cross_layer_equalization")
@dataclass(frozen=True)
class CrossLayerEqualization(Algorithm):
    """Balances the ranges of the channels between two layers, which share one scale there.

    A ReLU lets positive factors pass, `relu(s x) = s relu(x)`, so channel `i` may be divided by
    `s_i` in the first layer and multiplied by it in the second, and the model computes what it
    computed. With

        s_i = sqrt(r1_i * r2_i) / r2_i

    both layers use the same share of their ranges in every channel. `r2_i` is the largest magnitude
    of the second kernel in input channel `i`; `r1_i` that of the first kernel's output channel, as
    in the paper, or that of the activation on the calibration samples. The latter suits weights
    with a scale for each channel, which do not care about factors of their own; in front of a
    depthwise convolution the activation alone is balanced then. Pairs are visited until nothing
    changes.

    A channel that a ReLU6 cuts off on the samples keeps its factor, and no other is scaled beyond
    the limit, so that the model also stays the same there.

    Args:
        ranges: Where `r1` comes from: `"activations"` or `"weights"`. Defaults to `"activations"`.
        iterations: Most rounds through all pairs. Defaults to 20.

    Raises:
        ValueError: If `ranges` is not one of these, or `iterations` is less than 1.

    Reference: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", section 4.1, equations 7 to 12. With ranges of activations: Xiao et al. 2023,
    "SmoothQuant", equation 4.

    Example:

    ```python
    tfcompress.convert(
        model, "model.tflite", "int8", x, algorithms=["cross_layer_equalization"]
    )
    ```
    """

    ranges: str = "activations"
    iterations: int = 20

    def __post_init__(self) -> None:
        if self.ranges not in RANGES:
            raise ValueError(f"`ranges` must be one of {RANGES}. Received: {self.ranges!r}")
        if self.iterations < 1:
            raise ValueError(f"`iterations` must be at least 1. Received: {self.iterations}")

    def prepare(self, model: keras.Model, samples: Mapping[str, np.ndarray]) -> Outcome:
        """Scale the kernels and biases of all pairs."""
        found = channel_extremes(model, samples)
        before = [spread(np.maximum(high, -low)) for _, low, high in found]
        peaks = [np.maximum(high, -low) for _, low, high in found]
        clipped = [high >= pair.limit * _CLIPPED for pair, _, high in found]
        for _ in range(self.iterations):
            largest = 0.0
            for number, (pair, _, _) in enumerate(found):
                factor = self._factors(pair, peaks[number], clipped[number])
                _scale(pair, factor)
                peaks[number] = peaks[number] / factor
                largest = max(largest, float(np.abs(np.log(factor)).max(initial=0.0)))
            if largest < _CONVERGED:
                break
        rows = [
            LayerOutcome(pair.name, {"spread_before": old, "spread_after": spread(peak)})
            for (pair, _, _), old, peak in zip(found, before, peaks, strict=True)
        ]
        widest = max(before, default=1.0)
        left = max((row.figures["spread_after"] for row in rows), default=1.0)
        note = f"Widest to median channel: at most {widest:.3g} before, {left:.3g} after."
        return Outcome(self.name, tuple(rows), note)

    def _factors(self, pair: ChannelPair, peak: np.ndarray, clipped: np.ndarray) -> np.ndarray:
        first, second = peak, np.abs(pair.second.by_input(len(peak))).max(axis=1)
        if self.ranges == "weights":
            kernel = np.abs(pair.first.kernel)
            axes = [axis % kernel.ndim for axis in pair.first.output_axes]
            others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
            first = kernel.max(axis=others).reshape(-1)
        usable = (first > 0) & (second > 0) & (peak > 0) & ~clipped
        factor = np.ones(len(peak))
        if usable.any():
            ratio = first[usable] / second[usable]
            if self.ranges == "activations" and pair.second.is_depthwise:
                # Its kernel has a scale for each channel: only the activation is to be balanced.
                ratio = np.square(first[usable])
            found = np.sqrt(ratio)
            # A factor on all channels together is free: the largest value stays what it is, which
            # also keeps all of them within the limit.
            factor[usable] = found * ((peak[usable] / found).max() / peak.max())
        return factor


def spread(peaks: np.ndarray) -> float:
    """How much wider the widest channel is than the median one, among those that are used."""
    used = peaks[peaks > 0]
    return float(used.max() / np.median(used)) if len(used) else 1.0


def _scale(pair: ChannelPair, factor: np.ndarray) -> None:
    bias = pair.first.bias
    pair.first.assign(
        pair.first.scaled_outputs(1 / factor), None if bias is None else bias / factor
    )
    pair.second.assign(pair.second.scaled_inputs(factor))

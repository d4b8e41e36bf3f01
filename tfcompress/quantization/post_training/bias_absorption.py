"""Absorption of high biases."""

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


@register("bias_absorption")
@dataclass(frozen=True)
class BiasAbsorption(Algorithm):
    """Moves what a channel always has on top into the bias of the next layer.

    Where a channel never falls below `c_i > 0`, the range of the activation is wasted on it:
    `relu(x) - c = relu(x - c)`, so

        b1_i <- b1_i - c_i,    b2 <- b2 + W2 c

    leaves the model as it is and the range smaller. Equalization makes such channels, since it
    scales biases too. The paper takes `c` from the statistics of the batch normalization
    (`max(0, beta - 3 gamma)`); here it is the smallest value on the calibration samples.

    Channels that a ReLU6 cuts off keep what they have. Behind a padding with zeros, which are no
    channel values and would be shifted too, it is not exact and not done.

    Reference: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", section 4.1.3, equations 13 to 15.

    Example:

    ```python
    algorithms = ["cross_layer_equalization", "bias_absorption"]
    tfcompress.convert(model, "model.tflite", "int8", x, algorithms=algorithms)
    ```
    """

    def prepare(self, model: keras.Model, samples: Mapping[str, np.ndarray]) -> Outcome:
        """Shift the biases of all pairs."""
        rows = []
        for pair, low, high in channel_extremes(model, samples):
            reason = _obstacle(pair)
            if reason:
                rows.append(LayerOutcome(pair.name, {}, reason))
                continue
            constant = np.where(high < pair.limit, np.maximum(low, 0.0), 0.0)
            _shift(pair, constant)
            moved = {"channels": float((constant > 0).sum()), "largest": float(constant.max())}
            rows.append(LayerOutcome(pair.name, moved))
        channels = sum(int(row.figures.get("channels", 0)) for row in rows)
        return Outcome(self.name, tuple(rows), f"{channels} channels lowered.")


def _obstacle(pair: ChannelPair) -> str:
    if not pair.shifts or pair.second.pads:
        return "zeros are padded between the layers"
    if pair.first.bias is None or pair.second.bias is None:
        return "a layer has no bias"
    return ""


def _shift(pair: ChannelPair, constant: np.ndarray) -> None:
    first, second = pair.first.bias, pair.second.bias
    if first is not None and second is not None and constant.any():
        pair.first.assign(bias=first - constant)
        pair.second.assign(bias=second + pair.second.response(constant))

"""Bias correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.quantization.post_training.algorithm import (
    Algorithm,
    LayerOutcome,
    Outcome,
    register,
)
from tfcompress.quantization.post_training.lockstep import Step, quantized_layers
from tfcompress.quantization.rules.linear import linear_activation
from tfcompress.quantization.substitution import substituted


@register("bias_correction")
@dataclass(frozen=True)
class BiasCorrection(Algorithm):
    """Takes the mean error of every output channel out again, layer by layer.

    Rounding errors of weights do not average out: behind a ReLU inputs have a mean, and
    `E[W~ x] - E[W x] = (W~ - W) E[x]` shifts the output of a layer. The shift is measured on the
    calibration samples, before the activation, and subtracted from the bias:

        b <- b + E[y] - E[y~]

    where `y~` is what the quantized layer makes of inputs as the quantized network computes them,
    whose layers in front are corrected already.

    Reference: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", section 4.2 and appendix D (empirical bias correction).

    Example:

    ```python
    tfcompress.convert(model, "model.tflite", "w4a8", x, algorithms=["bias_correction"])
    ```
    """

    def refine(
        self, model: keras.Model, quantized: keras.Model, samples: Mapping[str, np.ndarray]
    ) -> Outcome:
        """Correct the biases in the order of the computation."""
        rows = []
        for step in quantized_layers(model, quantized, samples):
            name, reason = step.wrapper.name, _obstacle(step)
            if reason:
                rows.append(LayerOutcome(name, {}, reason))
                continue
            shift = _shift(step)
            bias = step.wrapper.rule.bias(step.wrapper.layer)
            bias.assign(bias + ops.convert_to_tensor(shift, bias.dtype))
            rows.append(LayerOutcome(name, {"largest_shift": float(np.abs(shift).max())}))
        return Outcome(self.name, tuple(rows))


def _obstacle(step: Step) -> str:
    bias = step.wrapper.rule.bias(step.wrapper.layer)
    if step.obstacle:
        return step.obstacle
    if bias is None:
        return "has no bias"
    if tuple(bias.shape) != tuple(step.node.outputs[0].shape[-1:]):
        return "has no bias for each output channel"
    return ""


def _shift(step: Step) -> np.ndarray:
    """How much the float layer's output is above the quantized one's, by channel."""
    wrapper = step.wrapper
    values = {id(kernel): value for kernel, value in wrapper.quantized_kernels()}
    means, sizes = [], []
    for given, wanted in zip(step.inputs, step.float_inputs, strict=True):
        with linear_activation(step.layer):
            expected = step.layer(wanted)
        with substituted(wrapper.layer, values), linear_activation(wrapper.layer):
            seen = wrapper.rule.call(wrapper, given)
        means.append(_channel_mean(expected) - _channel_mean(seen))
        sizes.append(len(given))
    return np.average(means, axis=0, weights=sizes)


def _channel_mean(values: Any) -> np.ndarray:
    mean = ops.mean(ops.cast(values, "float32"), axis=tuple(range(len(values.shape) - 1)))
    return np.asarray(ops.convert_to_numpy(mean))

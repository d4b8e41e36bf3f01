"""The layer that quantizes activations and learns their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tfcompress.quantization.fake_quant import fake_quant_activation, round_to_codes


@keras.saving.register_keras_serializable("tfcompress")
class ActivationQuantizer(keras.layers.Layer):
    """Fake-quantizes one tensor, or several that LiteRT wants in one common range.

    The range is the moving average of the minima and maxima that training batches show. The first
    range is not a constant: it is that of the calibration batches or, without them, that of the
    first training batch. Before either, tensors pass through unchanged.

    Args:
        fixed_range: `(low, high)` of an output whose range LiteRT fixes, such as softmax. Nothing
            is learned then. Defaults to None.
        momentum: Share of the old range in the moving average. Defaults to 0.99.
        bits: Width of the codes. Defaults to 8.
        requantized: Positions in a list of inputs that come in with another range already.

    Call arguments:
        inputs: A float tensor, or a list of float tensors that share the range.
        training: Whether to update the range.
        follows: Whether `inputs` were made from values that this layer has quantized, by an
            operation that keeps their range but falls between the codes, such as average pooling.
            They are rounded as LiteRT rounds them, and the range is not updated.

    Input shape:
        Any.

    Output shape:
        That of the input.

    Reference: Jacob et al. 2018, section 3.1; Krishnamoorthi 2018, section 2.6.

    Example:

    ```python
    quantizer = ActivationQuantizer()
    y = quantizer(x, training=True)     # takes its range from x
    ```
    """

    def __init__(
        self,
        fixed_range: tuple[float, float] | None = None,
        momentum: float = 0.99,
        bits: int = 8,
        requantized: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {momentum}")
        self.fixed_range = None if fixed_range is None else tuple(map(float, fixed_range))
        self.momentum = momentum
        self.bits = bits
        self.requantized = tuple(requantized)
        self.supports_masking = True
        # Python switches, not variables: callbacks retrace the step when they change, and a step
        # then holds only the operations that it needs.
        self.quantizing = True
        self.observing = True
        self.calibrating = False

    def build(self, input_shape: Any = None) -> None:
        """Create the range; the same three scalars whatever the input."""
        if self.fixed_range is None:
            self.low = self._scalar("low")
            self.high = self._scalar("high")
            self.calibrated = self._scalar("calibrated")

    def _scalar(self, name: str) -> Any:
        # Replicas see different batches; their mean keeps them together.
        return self.add_weight(
            name=name,
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="mean",
        )

    def call(self, inputs: Any, training: bool | None = None, follows: bool = False) -> Any:
        """Quantize `inputs`, after updating the range with them when training."""
        if follows:
            return self._follow(inputs)
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if self.fixed_range is not None:
            low, high = self.fixed_range
            outputs = [fake_quant_activation(x, low, high, self.bits) for x in tensors]
        else:
            outputs = self._quantize(tensors, bool(training))
        if not self.quantizing or self.calibrating:
            outputs = tensors
        return outputs if isinstance(inputs, (list, tuple)) else outputs[0]

    def _quantize(self, tensors: list[Any], training: bool) -> list[Any]:
        low, high = self.low.value, self.high.value
        if self.calibrating or (training and self.observing):
            low, high = self._observe(tensors)
            return [fake_quant_activation(x, low, high, self.bits) for x in tensors]
        quantized = [fake_quant_activation(x, low, high, self.bits) for x in tensors]
        if training:  # ranges are frozen, and so were learned before
            return quantized
        ready = self.calibrated.value > 0
        return [ops.where(ready, q, x) for q, x in zip(quantized, tensors, strict=True)]

    def _follow(self, x: Any) -> Any:
        if not self.quantizing or self.calibrating:
            return x
        if self.fixed_range is not None:
            low, high = self.fixed_range
            return round_to_codes(x, low, high, self.bits)
        rounded = round_to_codes(x, self.low.value, self.high.value, self.bits)
        return ops.where(self.calibrated.value > 0, rounded, x)

    def _observe(self, tensors: list[Any]) -> tuple[Any, Any]:
        lows = [ops.cast(ops.min(ops.stop_gradient(x)), "float32") for x in tensors]
        highs = [ops.cast(ops.max(ops.stop_gradient(x)), "float32") for x in tensors]
        low = ops.min(ops.stack([*lows, ops.zeros(())]))
        high = ops.max(ops.stack([*highs, ops.zeros(())]))
        if self.calibrating:
            low = ops.minimum(self.low.value, low)
            high = ops.maximum(self.high.value, high)
        else:
            keep = self.momentum * self.calibrated.value  # 0 at the first batch
            low = keep * self.low.value + (1.0 - keep) * low
            high = keep * self.high.value + (1.0 - keep) * high
        self.low.assign(low)
        self.high.assign(high)
        self.calibrated.assign(ops.ones(()))
        # The new values, not the variables: in-place assignment breaks autograd on some backends.
        return low, high

    @property
    def range(self) -> tuple[float, float] | None:
        """`(low, high)` as floats, or None before the first batch."""
        if self.fixed_range is not None:
            low, high = self.fixed_range
            return low, high
        if not self.built or float(ops.convert_to_numpy(self.calibrated)) == 0:
            return None
        return float(ops.convert_to_numpy(self.low)), float(ops.convert_to_numpy(self.high))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "fixed_range": self.fixed_range,
            "momentum": self.momentum,
            "bits": self.bits,
            "requantized": list(self.requantized),
        }


@contextmanager
def calibration_of(quantizers: list[ActivationQuantizer]) -> Iterator[None]:
    """Let calls widen the ranges to all that they see, without quantizing, inside the block."""
    for quantizer in quantizers:
        quantizer.calibrating = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.calibrating = False

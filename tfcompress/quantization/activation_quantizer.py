"""The layer that quantizes activations and learns their ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tfcompress.quantization import learned_scale, observers
from tfcompress.quantization.fake_quant import (
    SMALLEST_RANGE,
    fake_quant_activation,
    round_to_codes,
)
from tfcompress.quantization.integer_arithmetic import short_scale
from tfcompress.quantization.neighbours import Maker, Source, sources_of
from tfcompress.quantization.power_of_two import power_of_two_range


@keras.saving.register_keras_serializable("tfcompress")
class ActivationQuantizer(Source, keras.layers.Layer):
    """Fake-quantizes one tensor, or several that LiteRT wants in one common range.

    The range is what an observer finds in the batches, by default the moving average of their
    minima and maxima. The first range is not a constant: it is that of the calibration batches or,
    without them, that of the first training batch. Before either, tensors pass through unchanged.

    With `learned`, the optimizer trains the range from there on. What was learned is copied to
    `low` and `high` with every training step, which are the range everywhere else.

    Args:
        fixed_range: `(low, high)` of an output whose range LiteRT fixes, such as softmax. Nothing
            is learned then. Defaults to None.
        momentum: Share of the old range in the moving average, where no `observer` is given.
            Defaults to 0.99.
        bits: Width of the codes. Defaults to 8.
        requantized: Positions in a list of inputs that come in with another range already.
        observer: How ranges are found; see `observers.get`. Defaults to None: the moving average.
        symmetric: Whether zero has the middle code, 0 of -128 to 127. Defaults to False.
        power_of_two: Whether the scale is a power of two. Defaults to False.
        learned: `"lsq"`, `"pact"` or None. Defaults to None.
        short_scale: Whether the scale has 16 significant bits, so that it is the same to the last
            bit in the file. Defaults to True.

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

    Reference: Jacob et al. 2018, section 3.1; Krishnamoorthi 2018, section 2.6. Learned ranges:
    Esser et al. 2020, section 2 (with the zero point of the first range); Choi et al. 2018,
    section 3 (both ends grow and shrink together).

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
        observer: str | Mapping[str, Any] | observers.Observer | None = None,
        symmetric: bool = False,
        power_of_two: bool = False,
        learned: str | None = None,
        short_scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if observer is None:
            observer = observers.MovingAverage(momentum)
        if learned is not None and learned not in learned_scale.METHODS:
            raise ValueError(
                f"`learned` must be one of {learned_scale.METHODS} or None. Received: {learned!r}"
            )
        self.fixed_range = None if fixed_range is None else tuple(map(float, fixed_range))
        self.observer = observers.get(observer)
        self.momentum = self.observer.momentum
        self.bits = bits
        self.requantized = tuple(requantized)
        self.symmetric = symmetric
        self.power_of_two = power_of_two
        self.learned = learned
        self.short_scale = short_scale
        self.supports_masking = True
        # Python switches, not variables: callbacks retrace the step when they change, and a step
        # then holds only the operations that it needs.
        self.quantizing = True
        self.observing = True
        self.calibrating = False

    def symbolic_call(self, *args: Any, **kwargs: Any) -> Any:
        """Become part of a graph, and tell the layers there that this quantizes what they make."""
        if not kwargs.get("follows"):
            for source in sources_of(args, kwargs):
                if isinstance(source, Maker):
                    source.output_quantizer.observe(self)
        return super().symbolic_call(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        """Create the range; the same scalars whatever the input."""
        if self.fixed_range is None:
            self.low = self._scalar("low")
            self.high = self._scalar("high")
            # How much data the range rests on: 0 before any, 1 for good.
            self.calibrated = self._scalar("calibrated")
            if self.learned is not None:
                self.start_low = self._scalar("start_low")
                self.start_high = self._scalar("start_high")
                self.growth = self._scalar("growth", trainable=True)

    def _scalar(self, name: str, trainable: bool = False) -> Any:
        # Replicas see different batches; their mean keeps them together.
        return self.add_weight(
            name=name,
            shape=(),
            initializer="zeros",
            trainable=trainable,
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
        if self.calibrating or (training and self.observing):
            low, high = self._observe(tensors)
            if self.learned is not None and not self.calibrating:
                return self._learn(tensors, low, high)
            return self._rounded(tensors, low, high)
        quantized = self._rounded(tensors, self.low.value, self.high.value)
        if training:  # ranges are frozen, and so were learned before
            self._keep_gradient()
            return quantized
        ready = self.calibrated.value > 0
        return [ops.where(ready, q, x) for q, x in zip(quantized, tensors, strict=True)]

    def _rounded(self, tensors: list[Any], low: Any, high: Any) -> list[Any]:
        low, high = self._grid(low, high)
        return [fake_quant_activation(x, low, high, self.bits) for x in tensors]

    def _grid(self, low: Any, high: Any) -> tuple[Any, Any]:
        """The ends of the codes for a range that was observed or learned."""
        if self.symmetric:
            half = 2 ** (self.bits - 1)
            scale = ops.maximum(high / (half - 1), -low / half)
            low, high = -half * scale, (half - 1) * scale
        if self.power_of_two:
            return power_of_two_range(low, high, self.bits)
        return self._whole_codes(low, high) if self.short_scale else (low, high)

    def _whole_codes(self, low: Any, high: Any) -> tuple[Any, Any]:
        """The range with ends that are whole codes, and exact in float32 whatever divides them."""
        scale = self._short_scale(low, high)
        below = ops.round(-low / scale)
        return -below * scale, (2**self.bits - 1 - below) * scale

    def _short_scale(self, low: Any, high: Any) -> Any:
        share = 1.0 / (2**self.bits - 1)
        return short_scale(ops.maximum((high - low) * share, SMALLEST_RANGE * share))

    def _follow(self, x: Any) -> Any:
        if not self.quantizing or self.calibrating:
            return x
        if self.fixed_range is not None:
            low, high = self.fixed_range
            return round_to_codes(x, low, high, self.bits)
        low, high = self._grid(self.low.value, self.high.value)
        rounded = round_to_codes(x, low, high, self.bits)
        return ops.where(self.calibrated.value > 0, rounded, x)

    def _observe(self, tensors: list[Any]) -> tuple[Any, Any]:
        found = [
            self.observer.find(
                ops.cast(ops.stop_gradient(x), "float32"), self.bits, self.calibrating
            )
            for x in tensors
        ]
        low = ops.min(ops.stack([*(low for low, _ in found), ops.zeros(())]))
        high = ops.max(ops.stack([*(high for _, high in found), ops.zeros(())]))
        return self.observe_range(low, high)

    def observe_range(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Take the range of one more batch into account.

        Args:
            low: Float32 scalar, at most 0.
            high: Float32 scalar, at least 0.

        Returns:
            The new range.
        """
        known = self.calibrated.value
        if self.learned is not None and not self.calibrating and self.quantizing:
            # It starts with the first batch, and then belongs to the optimizer.
            low = ops.where(known > 0, self.start_low.value, low)
            high = ops.where(known > 0, self.start_high.value, high)
            known = ops.ones(())
        elif (self.calibrating and self.observer.widens_in_calibration) or (
            self.observer.widens_in_training
        ):
            low = ops.minimum(self.low.value, low)
            high = ops.maximum(self.high.value, high)
            known = ops.ones(())
        else:
            # Corrected for the start: all batches count alike while they are few.
            keep = self.observer.momentum * known
            known = keep + (1.0 - self.observer.momentum)
            keep = keep / known
            low = keep * self.low.value + (1.0 - keep) * low
            high = keep * self.high.value + (1.0 - keep) * high
        self.low.assign(low)
        self.high.assign(high)
        self.calibrated.assign(known)
        if self.learned is not None:
            self.start_low.assign(low)
            self.start_high.assign(high)
        # The new values, not the variables: in-place assignment breaks autograd on some backends.
        return low, high

    def _learn(self, tensors: list[Any], low: Any, high: Any) -> list[Any]:
        """Quantize over the range that the optimizer has made of the first one."""
        if not self.quantizing:
            self._keep_gradient()
            return tensors
        features = sum(math.prod(n or 1 for n in x.shape[1:]) for x in tensors)
        low, high, start, scale = self._learned_range(low, high, features)
        if self.learned == "pact":
            decayed = ops.square(low / start * scale) + ops.square(high / start * scale)
            self.add_loss(learned_scale.PACT_DECAY * decayed)
        now = ops.stop_gradient(scale)
        self.low.assign(low / start * now)
        self.high.assign(high / start * now)
        return [self._learned(x, low / start, high / start, scale) for x in tensors]

    def _learned_range(self, low: Any, high: Any, features: int) -> tuple[Any, Any, Any, Any]:
        """The first range on its grid, its scale, and the scale that is trained."""
        low, high = self._grid(low, high)
        steps = 2**self.bits - 1
        high = ops.maximum(high, low + SMALLEST_RANGE)
        start = (high - low) / steps
        # Whole codes, as the exported operation has them.
        below = ops.round(-low / start)
        low, high = -below * start, (steps - below) * start
        if self.learned == "lsq":
            strength = learned_scale.lsq_gradient_scale(features, steps)
        else:
            strength = learned_scale.pact_gradient_scale(steps)
        scale = learned_scale.learned_value(start, self.growth.value, strength)
        return low, high, start, scale

    def _learned(self, x: Any, lowest: Any, highest: Any, scale: Any) -> Any:
        """Quantize with the gradients of the paper and the values of the exported operation."""
        quantize = learned_scale.lsq_quantize if self.learned == "lsq" else learned_scale.pact_clip
        code = quantize(ops.cast(x, "float32"), scale, lowest, highest)
        now = ops.stop_gradient(scale)
        value = fake_quant_activation(x, lowest * now, highest * now, self.bits)
        return ops.stop_gradient(value) + ops.cast(code - ops.stop_gradient(code), x.dtype)

    def snapshot(self, training: bool = False) -> Callable[[Any], Any]:
        """A function that quantizes over the range of now and assigns no variable.

        For the steps of a loop, in which nothing may be assigned; afterwards, call the layer with
        the values that were quantized, so that it observes them.

        Args:
            training: Whether a learned range is trained. Defaults to False.

        Returns:
            A function of one tensor.
        """
        if not self.quantizing or self.calibrating:
            return lambda x: x
        if self.fixed_range is not None:
            ends = self.fixed_range
            return lambda x: fake_quant_activation(x, ends[0], ends[1], self.bits)
        ready = self.calibrated.value > 0
        if self.learned is not None and training and self.observing:
            low, high = self.start_low.value, self.start_high.value

            def learn(x: Any) -> Any:
                features = math.prod(n or 1 for n in x.shape[1:])
                left, right, start, scale = self._learned_range(low, high, features)
                return ops.where(ready, self._learned(x, left / start, right / start, scale), x)

            return learn
        low, high = self._grid(self.low.value, self.high.value)
        return lambda x: ops.where(ready, fake_quant_activation(x, low, high, self.bits), x)

    def scale(self) -> Any:
        """The distance of two codes now, a float32 scalar; 0 while tensors pass through."""
        if not self.quantizing or self.calibrating:
            return ops.zeros(())
        steps = 2**self.bits - 1
        if self.fixed_range is not None:
            return ops.full((), (self.fixed_range[1] - self.fixed_range[0]) / steps)
        # Of ends that are whole codes this is exact, and it is the same wherever it is computed.
        scale = self._short_scale(*self._grid(self.low.value, self.high.value))
        return ops.where(self.calibrated.value > 0, scale, 0.0)

    def output_unit(self) -> Any:
        """The scale."""
        return self.scale()

    def _keep_gradient(self) -> None:
        """Give what is learned a gradient of zero while it is not used, as optimizers want one."""
        if self.learned is not None:
            self.add_loss(0.0 * self.growth.value)

    @property
    def range(self) -> tuple[float, float] | None:
        """`(low, high)` as floats, or None before the first batch."""
        if self.fixed_range is not None:
            low, high = self.fixed_range
            return low, high
        if not self.built or float(ops.convert_to_numpy(self.calibrated)) == 0:
            return None
        low, high = self._grid(self.low.value, self.high.value)
        return float(ops.convert_to_numpy(low)), float(ops.convert_to_numpy(high))

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
            "observer": self.observer.get_config(),
            "symmetric": self.symmetric,
            "power_of_two": self.power_of_two,
            "learned": self.learned,
            "short_scale": self.short_scale,
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

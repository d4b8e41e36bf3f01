"""The wrapper through which a layer computes with quantized weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.graph.rebuild import copy_variables
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.bias_grid import round_bias, told_apart
from tfcompress.quantization.fake_quant import fake_quant_weight
from tfcompress.quantization.integer_arithmetic import add, requantize
from tfcompress.quantization.kernel_grid import KernelGrid
from tfcompress.quantization.learned_scale import (
    learned_value,
    lsq_gradient_scale,
    lsq_quantize,
)
from tfcompress.quantization.neighbours import Maker, Neighbour, Source, sources_of
from tfcompress.quantization.rules import rule_of
from tfcompress.quantization.rules.operation_layer import OperationLayer
from tfcompress.quantization.schemes import Scheme
from tfcompress.quantization.substitution import substituted
from tfcompress.quantization.weight_scale import (
    fake_quant_to_limit,
    fake_quant_to_scale,
    weight_scale,
)


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedLayer(Maker, keras.layers.Wrapper):
    """Runs a layer with fake-quantized kernels, and with quantizers inside where LiteRT has them.

    While the inner layer is called, its kernels are replaced by `fake_quant(mask * kernel)`. The
    layer itself stays an ordinary Keras layer with its ordinary float weights, which the optimizer
    trains and which are what is saved.

    Args:
        layer: The layer. Its class decides what is quantized, through the registered rules.
        weight_bits: Bits of a weight where no `scheme` is given. Defaults to 8.
        inner: Names of the activation quantizers inside the layer, each with its fixed range or
            None. Defaults to none.
        masked: For each kernel, whether its zeros are kept. Defaults to none.
        folded: Whether a batch normalization folds into the operation before it.
        scheme: The grids of weights and inner activations, as a `Scheme` or its config. Defaults to
            None: int8, with the given `weight_bits`.
        build_config: What builds the inner layer when the shape of its first input alone does not.
            Defaults to None.

    Call arguments:
        inputs: What the inner layer takes; further arguments are passed on.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_bits: int = 8,
        inner: Mapping[str, tuple[float, float] | None] | None = None,
        masked: Sequence[bool] = (),
        folded: bool = False,
        scheme: Scheme | Mapping[str, Any] | None = None,
        build_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        if scheme is None:
            scheme = Scheme(weight_bits=weight_bits)
        self.scheme = scheme if isinstance(scheme, Scheme) else Scheme.from_config(scheme)
        self.weight_bits = self.scheme.weight_bits
        self.masked = list(masked)
        self.folded = folded
        self.build_config = None if build_config is None else dict(build_config)
        if self.rule.takes_named_inputs:
            keras_internals.adopt_call_signature(self, layer)
        self.inner = {
            name: ActivationQuantizer(
                fixed_range,
                name=name,
                dtype=layer.dtype_policy,
                **self.scheme.quantizer_config(),
            )
            for name, fixed_range in (inner or {}).items()
        }
        self.supports_masking = layer.supports_masking
        self.input_sources: dict[int, Neighbour] = {}
        self.output_quantizer = Neighbour()
        self._units: tuple[Any, ...] = ()
        self.infers_shapes = False
        # Whether the bias becomes part of that of a folded normalization, and is rounded there.
        self.bias_folds = False
        if isinstance(layer, OperationLayer):
            keras_internals.take_constants(self)
        # Python switches, as in ActivationQuantizer.
        self.quantizing = True
        self.frozen = False
        self.deployed_calls = 0

    @property
    def rule(self) -> Any:
        """The rule of the inner layer."""
        return rule_of(self.layer)

    def symbolic_call(self, *args: Any, **kwargs: Any) -> Any:
        """Become part of a graph, and see there where the inputs are quantized."""
        for number, source in enumerate(sources_of(args, kwargs)):
            self.input_sources.setdefault(number, Neighbour()).observe(source)
        source = self.input_source()
        if self.folded and isinstance(source, QuantizedLayer):
            source.bias_folds = True
        # Shapes do not depend on how values are rounded, and tracing that takes most of the time.
        self.infers_shapes = True
        try:
            return super().symbolic_call(*args, **kwargs)
        finally:
            self.infers_shapes = False

    def build(self, input_shape: Any = None) -> None:
        """Build the inner layer and the masks."""
        if self.build_config is not None and not self.layer.built:
            self.layer.build_from_config(self.build_config)
        super().build(input_shape)
        for quantizer in self.inner.values():
            quantizer.build()
        kernels = [kernel for kernel, _ in self.rule.kernels(self.layer)]
        masked = self.masked or [False] * len(kernels)
        self.masks = [
            self.add_weight(
                name=f"mask_{number}",
                shape=kernel.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
                autocast=False,
            )
            if keeps_zeros
            else None
            for number, (kernel, keeps_zeros) in enumerate(zip(kernels, masked, strict=True))
        ]
        given = self.scheme.has_given_scales
        # What is learned, as a start and its growth; or what is given, as the largest code's value.
        self.scales = [
            (
                self._scale(f"scale_{number}", shape),
                None if given else self._scale(f"growth_{number}", shape, True),
            )
            for number, shape in enumerate(self._scale_shapes())
        ]

    def _scale_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the scales that are learned or given, one for each kernel."""
        if self.scheme.learned != "lsq" and not self.scheme.has_given_scales:
            return []
        shapes = []
        for kernel, axes in self.rule.kernels(self.layer):
            kept = {axis % len(kernel.shape) for axis in self._channel_axes(axes)}
            shapes.append(tuple(n if i in kept else 1 for i, n in enumerate(kernel.shape)))
        return shapes

    def _scale(self, name: str, shape: tuple[int, ...], trainable: bool = False) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros" if trainable else "ones",
            trainable=trainable,
            dtype="float32",
            autocast=False,
        )

    @property
    def _largest_code(self) -> int:
        return 2 ** (self.weight_bits - 1) - 1

    def start_scales(self) -> None:
        """Let scales that are learned start from the values that the kernels have now."""
        if self.scales:
            for (_, axes), value, (start, growth) in zip(
                self.rule.kernels(self.layer), self._masked_values(), self.scales, strict=True
            ):
                scale = self._observed_scale(value, axes)
                if growth is None:
                    start.assign(scale * self._largest_code)
                    continue
                start.assign(scale)
                growth.assign(ops.zeros(growth.shape))

    def set_weight_limits(self, number: int, limits: Any) -> None:
        """Fix what the largest code of a kernel stands for, in a scheme with given scales.

        Args:
            number: Position of the kernel among those of the layer.
            limits: Positive values, one, or one for each channel of the kernel's last axis.

        Raises:
            ValueError: If the scales of the scheme are not given, or the limits do not fit.
        """
        limits = np.asarray(limits, "float32")
        if not self.scheme.has_given_scales:
            raise ValueError(
                f"The layer '{self.name}' finds its scales by itself. Give it a scheme with "
                f"weight_range='given'. Received: scheme {self.scheme.name!r}"
            )
        kept, _ = self.scales[number]
        if limits.ndim > 1 or limits.size not in (1, kept.shape[-1]):
            raise ValueError(
                f"'{self.name}' takes one limit or {kept.shape[-1]}, one for each channel of the "
                f"last axis. Received: limits of shape {limits.shape}"
            )
        kept.assign(np.broadcast_to(limits, kept.shape))

    def _channel_axes(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        return axes if self.scheme.granularity == "per_channel" else ()

    def _observed_scale(self, value: Any, axes: tuple[int, ...]) -> Any:
        scheme = self.scheme
        return weight_scale(
            value,
            self._channel_axes(axes),
            scheme.weight_bits,
            "max" if scheme.has_given_scales else scheme.weight_range,
            scheme.power_of_two is not None,
        )

    def _filled(self, value: Any, axes: tuple[int, ...]) -> Any:
        """Whether what shares a scale holds anything but zeros, in the shape of the scale."""
        rank = len(value.shape)
        kept = {axis % rank for axis in self._channel_axes(axes)}
        reduced = tuple(axis for axis in range(rank) if axis not in kept)
        return ops.any(ops.not_equal(value, 0), axis=reduced, keepdims=True)

    def _masked_values(self) -> list[Any]:
        """The values of the kernels in float32, with the masked ones zero."""
        values = []
        for (kernel, _), mask in zip(self.rule.kernels(self.layer), self.masks, strict=True):
            value = ops.cast(kernel.value, "float32")
            if mask is not None:
                value = value * ops.cast(mask.value, "float32")
            values.append(value)
        return values

    def quantized_kernels(self) -> list[tuple[keras.Variable, Any]]:
        """Each kernel variable with its masked and fake-quantized value, in float32."""
        with keras_internals.without_autocast():
            return [
                (kernel, self._quantized(number, value, axes))
                for number, ((kernel, axes), value) in enumerate(
                    zip(self.rule.kernels(self.layer), self._masked_values(), strict=True)
                )
            ]

    def input_source(self, number: int = 0) -> Source | None:
        """Where an input was quantized, or the wrapper that it comes from unquantized."""
        neighbour = self.input_sources.get(number)
        return None if neighbour is None else neighbour.operation

    def source_unit(self, number: int = 0) -> Any:
        """What one code of an input is worth, a float32 scalar; None where it is not known."""
        source = self.input_source(number)
        known = self.quantizing and self.scheme.arithmetic == "integer"
        return source.scale() if known and isinstance(source, ActivationQuantizer) else None

    def summed_unit(self) -> Any:
        """What one code of the values is worth that LiteRT multiplies and sums, or None."""
        inner = self.rule.summed_range
        if inner is None:
            return self.source_unit()
        return None if self.scheme.arithmetic == "float" else self.inner[inner].scale()

    def channel_scale(self, number: int | None = None) -> Any:
        """What one code of a kernel is worth.

        Args:
            number: Which one. Defaults to None: that of the sums to which LiteRT adds the bias.

        Returns:
            A float32 tensor of shape (channels,) or (1,); 0 for a channel without weights, whose
            scale the converter fits to the bias.
        """
        number = self.rule.summing_kernel if number is None else number
        _, axes = self.rule.kernels(self.layer)[number]
        with keras_internals.without_autocast():
            value = self._masked_values()[number]
            scale = self._scale_now(number, value, axes)
            scale = ops.where(self._filled(value, axes), scale, 0.0)
        return ops.stop_gradient(ops.reshape(scale, (-1,)))

    def regridded(self, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The kernel of LiteRT's sums with the same codes in units of another scale.

        Args:
            kernel: Its quantized values.
            scale: What one code is worth now, of shape (channels,).
        """
        _, axes = self.rule.kernels(self.layer)[self.rule.summing_kernel]
        kept = {axis % kernel.ndim for axis in axes}
        shape = [n if axis in kept else 1 for axis, n in enumerate(kernel.shape)]
        own = ops.convert_to_numpy(self.channel_scale())
        own = np.where(own > 0, own, 1).reshape(shape if own.size > 1 else -1)
        return np.rint(kernel / own) * scale.reshape(shape)

    def accumulator_unit(self) -> Any:
        """What one code of the integer sums is worth to which LiteRT adds the bias.

        Returns:
            A float32 tensor of shape (channels,) or (1,), 0 where it is not known; or None.
        """
        unit = self.summed_unit()
        return None if unit is None else unit * self.channel_scale()

    @property
    def computes_integers(self) -> bool:
        """Whether a call rounds as LiteRT's integers do: in evaluation, in full precision."""
        exact = self.quantizing and self.compute_dtype == "float32" and not self.infers_shapes
        return exact and not keras_internals.is_training(self)

    def requantized(
        self, outputs: Any, quantizer: ActivationQuantizer | None = None, number: int = 0
    ) -> Any:
        """What the layer's sums become in evaluation: rounded as LiteRT does.

        Args:
            outputs: The sums with their bias, before or behind a fused activation.
            quantizer: What quantizes them. Defaults to None: the quantizer behind the layer.
            number: Which of the rule's `units` one of the integer sums is worth. Defaults to 0.
        """
        target = quantizer or self.output_quantizer.operation
        unit = self._units[number] if self._units else None
        if target is None or unit is None or not self.computes_integers:
            return outputs
        return requantize(outputs, unit, target.scale(), self.rule.roundings(self, number))

    def added(
        self, a: Any, b: Any, units: tuple[Any, Any], quantizer: ActivationQuantizer | None = None
    ) -> Any:
        """The sum of two quantized tensors, in evaluation rounded as LiteRT rounds it.

        Args:
            a: A tensor.
            b: A tensor.
            units: What one code of the two is worth, or None.
            quantizer: What quantizes the sum. Defaults to None: the quantizer behind the layer.
        """
        target = quantizer or self.output_quantizer.operation
        if target is None or None in units or not self.computes_integers:
            return ops.add(a, b)
        return add(a, b, units, target.scale())

    def _rounded_bias(self) -> list[tuple[keras.Variable, Any]]:
        bias, value = self.rule.bias(self.layer), self.float_bias()
        unit = None if value is None or self.bias_folds else self.accumulator_unit()
        return [] if unit is None else [(bias, round_bias(value, unit))]

    def float_bias(self) -> Any:
        """The bias of the layer in float32, shape (channels,), or None."""
        bias = self.rule.bias(self.layer)
        with keras_internals.without_autocast():
            return None if bias is None else ops.cast(bias.value, "float32")

    def _quantized(self, number: int, value: Any, axes: tuple[int, ...]) -> Any:
        scheme, bits = self.scheme, self.weight_bits
        if scheme.has_given_scales:
            limit, _ = self.scales[number]
            return fake_quant_to_limit(value, limit.value, self._channel_axes(axes), bits)
        if self.scales:
            steps = self._largest_code
            return lsq_quantize(value, self._kept_scale(number), -steps, steps)
        if scheme.weight_range == "max" and scheme.power_of_two is None:
            return fake_quant_weight(value, self._channel_axes(axes), bits)
        return fake_quant_to_scale(value, self._observed_scale(value, axes), bits)

    def _kept_scale(self, number: int) -> Any:
        start, growth = self.scales[number]
        if growth is None:
            return start.value / self._largest_code
        kernel, _ = self.rule.kernels(self.layer)[number]
        shared = math.prod(kernel.shape) // max(1, math.prod(start.shape))
        strength = lsq_gradient_scale(shared, self._largest_code)
        return learned_value(start.value, growth.value, strength)

    def kernel_grids(self) -> list[KernelGrid]:
        """The integer codes and scales of the kernels, as the exported file must have them."""
        grids = []
        with keras_internals.without_autocast():
            kernels, values = self.rule.kernels(self.layer), self._masked_values()
            for number, ((kernel, axes), value) in enumerate(zip(kernels, values, strict=True)):
                quantized = self._quantized(number, value, axes)
                scale = self._scale_now(number, value, axes)
                grids.append(
                    KernelGrid.of(
                        kernel.path,
                        ops.convert_to_numpy(quantized),
                        ops.convert_to_numpy(scale),
                        axes,
                        self.scheme,
                    )
                )
        return grids

    def _scale_now(self, number: int, value: Any, axes: tuple[int, ...]) -> Any:
        return self._kept_scale(number) if self.scales else self._observed_scale(value, axes)

    def scaled_kernels(self) -> list[tuple[keras.Variable, np.ndarray, np.ndarray]]:
        """Each kernel variable, its masked values in units of a code, and what a code is worth.

        Rounding and clipping the second gives the codes; the third broadcasts to it.
        """
        found = []
        with keras_internals.without_autocast():
            kernels, values = self.rule.kernels(self.layer), self._masked_values()
            for number, ((kernel, axes), value) in enumerate(zip(kernels, values, strict=True)):
                scale = ops.convert_to_numpy(self._scale_now(number, value, axes))
                found.append((kernel, ops.convert_to_numpy(value) / scale, scale))
        return found

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer with its kernels quantized."""
        if self.infers_shapes:
            pairs = []
        elif self.quantizing:
            pairs = self.quantized_kernels() + self._rounded_bias()
            if self.computes_integers:
                # Before tensors stand in the place of the variables.
                self._units = self.rule.units(self)
        else:
            pairs = self._masked_kernels()
        values = {id(kernel): ops.cast(value, self.compute_dtype) for kernel, value in pairs}
        try:
            with substituted(self.layer, values):
                return self.rule.call(self, inputs, *args, **kwargs)
        finally:
            self._units = ()

    def _masked_kernels(self) -> list[tuple[keras.Variable, Any]]:
        kernels = [kernel for kernel, _ in self.rule.kernels(self.layer)]
        return [
            (kernel, ops.cast(kernel.value, "float32") * ops.cast(mask.value, "float32"))
            for kernel, mask in zip(kernels, self.masks, strict=True)
            if mask is not None
        ]

    @property
    def deployed_name(self) -> str:
        """Name for the layer's exported form, different for each call of a shared layer."""
        return self.name if self.deployed_calls < 2 else f"{self.name}_{self.deployed_calls}"

    def baked_kernels(self) -> list[np.ndarray]:
        """The masked and quantized values of the kernels."""
        return [ops.convert_to_numpy(value) for _, value in self.quantized_kernels()]

    def constants(self) -> dict[int, np.ndarray]:
        """By `id(variable)`, what the layer's variables are in the exported model."""
        values = {id(v): ops.convert_to_numpy(v.value) for v in self.layer.variables}
        kernels = [id(kernel) for kernel, _ in self.rule.kernels(self.layer)]
        return {**values, **dict(zip(kernels, self.baked_kernels(), strict=True))}

    def baked_copy(self, **overrides: Any) -> keras.layers.Layer:
        """A copy of the inner layer for export, with the quantized kernels as its weights.

        Args:
            **overrides: Entries of the layer's config to change.
        """
        # Integer kernels know no half precision: what is exported computes in float32.
        copy = self._copy({"name": self.deployed_name, "dtype": "float32", **overrides})
        bias = self.rule.bias(copy)
        if bias is not None:
            bias.assign(self.deployed_bias())
        return copy

    def deployed_bias(self) -> np.ndarray:
        """The bias of the layer as it is exported: rounded, so that no later rounding moves it."""
        rounded = self._rounded_bias()
        value = rounded[0][1] if rounded else self.float_bias()
        return told_apart(ops.convert_to_numpy(value))

    def plain_copy(self) -> keras.Operation:
        """The inner layer as it was before wrapping, with the quantized kernels as its weights."""
        if isinstance(self.layer, OperationLayer):
            return self.layer.plain()
        return self._copy({"name": self.name})

    def _copy(self, overrides: dict[str, Any]) -> keras.layers.Layer:
        layer = self.layer
        copy = type(layer).from_config({**layer.get_config(), **overrides})
        copy.build_from_config(layer.get_build_config())
        copy_variables(layer, copy)
        for (kernel, _), value in zip(self.rule.kernels(copy), self.baked_kernels(), strict=True):
            kernel.assign(value)
        return copy

    def deployed_quantizer(self, name: str) -> ActivationQuantizer:
        """A quantizer inside the layer with the range that it learned, now fixed.

        Raises:
            ValueError: If it has not seen any data.
        """
        return deployed(self.inner[name], f"{self.deployed_name}_{name}_quantizer")

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """That of the inner layer."""
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "scheme": self.scheme.get_config(),
            "inner": {name: inner.fixed_range for name, inner in self.inner.items()},
            "masked": self.masked,
            "folded": self.folded,
            "build_config": self.build_config,
        }


def deployed(quantizer: ActivationQuantizer, name: str) -> ActivationQuantizer:
    """A quantizer without variables, with the range that `quantizer` has learned.

    Raises:
        ValueError: If it has not seen any data.
    """
    found = quantizer.range
    if found is None:
        raise ValueError(
            f"The quantizer '{quantizer.name}' has no range yet, because it never saw data. Train "
            "the quantization-aware model, or give `calibration=` to `quantize_aware`, first."
        )
    return ActivationQuantizer(fixed_range=found, bits=quantizer.bits, name=name)

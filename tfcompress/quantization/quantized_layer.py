"""The wrapper through which a layer computes with quantized weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.graph.rebuild import copy_variables
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.bias_grid import told_apart
from tfcompress.quantization.integer_arithmetic import add, requantize
from tfcompress.quantization.kernel_grid import KernelGrid
from tfcompress.quantization.neighbours import Maker, Neighbour, Source, sources_of
from tfcompress.quantization.quantized_kernel import QuantizedKernel, quantized_kernel
from tfcompress.quantization.rules import rule_of
from tfcompress.quantization.rules.operation_layer import OperationLayer
from tfcompress.quantization.schemes import Scheme
from tfcompress.quantization.substitution import substituted


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
        self.deployed_calls = 0  # Those exported so far,
        self.ranges_before = 0  # and the ranges exported before, in the whole model.

    @property
    def trainable(self) -> bool:
        """Whether the inner layer trains: to freeze one is to freeze the other."""
        layer = getattr(self, "layer", None)
        return self._trainable if layer is None else bool(layer.trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Wrapper.trainable.fset(self, value)
        if getattr(self, "layer", None) is not None:
            self.layer.trainable = value

    @property
    def weight_bits(self) -> int:
        """Bits of a weight."""
        return self.scheme.weight_bits

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
        kernels = self.rule.kernels(self.layer)
        masks = [
            self._variable(f"mask_{number}", kernel.shape, "bool", "ones") if keeps_zeros else None
            for number, ((kernel, _), keeps_zeros) in enumerate(
                zip(kernels, self.masked or [False] * len(kernels), strict=True)
            )
        ]
        self.kernels = [
            quantized_kernel(kernel, axes, self.scheme, mask)
            for (kernel, axes), mask in zip(kernels, masks, strict=True)
        ]
        for number, kernel in enumerate(self.kernels):
            kernel.add_scales(partial(self._scale, number))

    def _scale(self, number: int, name: str, shape: tuple[int, ...], trained: bool) -> Any:
        name, start = f"{name}_{number}", "zeros" if trained else "ones"
        return self._variable(name, shape, "float32", start, trained)

    def _variable(
        self, name: str, shape: Any, dtype: str, initializer: str, trainable: bool = False
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            dtype=dtype,
            autocast=False,
        )

    def set_scheme(self, scheme: Scheme) -> None:
        """Change how scales are found; what is learned or given stays as it is."""
        self.scheme = scheme
        for kernel in self.kernels:
            kernel.scheme = scheme

    @contextmanager
    def computing_in(self, scheme: Scheme) -> Iterator[None]:
        """Compute in another scheme, with scales found in the kernels' values, in the block."""
        before = self.scheme, self.kernels
        self.scheme = scheme
        self.kernels = [
            QuantizedKernel(kernel.variable, kernel.axes, scheme, kernel.mask)
            for kernel in self.kernels
        ]
        try:
            yield
        finally:
            self.scheme, self.kernels = before

    def start_scales(self) -> None:
        """Let scales that are learned start from the values that the kernels have now."""
        for kernel in self.kernels:
            kernel.start_scale()

    def set_weight_limits(self, number: int, limits: Any) -> None:
        """Fix what the largest code of a kernel stands for, in a scheme with given scales.

        Args:
            number: Position of the kernel among those of the layer.
            limits: Positive values, one, or one for each channel of the kernel's last axis.

        Raises:
            ValueError: If the scales of the scheme are not given, or the limits do not fit.
        """
        self.kernels[number].set_limits(np.asarray(limits, "float32"))

    def quantized_kernels(self) -> list[tuple[keras.Variable, Any]]:
        """Each kernel variable with its masked and fake-quantized value, in float32."""
        return [(kernel.variable, kernel.quantized()) for kernel in self.kernels]

    def input_source(self, number: int = 0) -> Source | None:
        """Where an input was quantized, or the wrapper that it comes from unquantized."""
        neighbour = self.input_sources.get(number)
        return None if neighbour is None else neighbour.operation

    def source_unit(self, number: int = 0) -> Any:
        """What one code of an input is worth, a float32 scalar; None where it is not known."""
        source = self.input_source(number)
        if source is None or not self.quantizing or self.scheme.arithmetic != "integer":
            return None
        return source.output_unit()

    def output_unit(self) -> Any:
        """What one code of the outputs is worth, if they have their range from inside, or None."""
        return self.rule.output_unit(self) if self.quantizing else None

    def summed_unit(self) -> Any:
        """What one code of the values is worth that LiteRT multiplies and sums, or None."""
        inner = self.rule.summed_range
        if inner is None:
            return self.source_unit()
        return None if self.scheme.arithmetic == "float" else self.inner[inner].scale()

    def summing_kernel(self) -> QuantizedKernel:
        """The kernel of the sums to which LiteRT adds the bias."""
        return self.kernels[self.rule.summing_kernel]

    def accumulator_unit(self) -> Any:
        """What one code of the integer sums is worth to which LiteRT adds the bias.

        Returns:
            A float32 tensor of shape (channels,) or (1,), 0 where it is not known; or None.
        """
        unit = self.summed_unit()
        return None if unit is None else unit * self.summing_kernel().channel_scale()

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

    def float_bias(self) -> Any:
        """The bias of the layer in float32, shape (channels,), or None."""
        bias = self.rule.bias(self.layer)
        with keras_internals.without_autocast():
            return None if bias is None else ops.cast(bias.value, "float32")

    def kernel_grids(self) -> list[KernelGrid]:
        """The integer codes and scales of the kernels, as the exported file must have them."""
        return [kernel.grid() for kernel in self.kernels]

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer with its kernels quantized."""
        if self.infers_shapes:
            pairs = []
        elif self.quantizing:
            pairs = self.quantized_kernels() + self.rule.rounded_biases(self)
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
        masked = (kernel for kernel in self.kernels if kernel.mask is not None)
        return [(kernel.variable, kernel.masked()) for kernel in masked]

    @property
    def deployed_name(self) -> str:
        """Name for the layer's exported form, different for each call of a shared layer."""
        return self.name if self.deployed_calls < 2 else f"{self.name}_{self.deployed_calls}"

    def baked_kernels(self) -> list[np.ndarray]:
        """The masked and quantized values of the kernels."""
        return [kernel.baked() for kernel in self.kernels]

    def constants(self) -> dict[int, np.ndarray]:
        """By `id(variable)`, what the layer's variables are in the exported model."""
        values = {id(v): ops.convert_to_numpy(v.value) for v in self.layer.variables}
        return {**values, **{id(kernel.variable): kernel.baked() for kernel in self.kernels}}

    def baked_copy(
        self, kind: type[keras.layers.Layer] | None = None, **overrides: Any
    ) -> keras.layers.Layer:
        """A copy of the inner layer for export, with the quantized kernels as its weights.

        Args:
            kind: Its class, which takes the config of the layer. Defaults to None: the layer's.
            **overrides: Entries of the layer's config to change.
        """
        # Integer kernels know no half precision: what is exported computes in float32.
        copy = self._copy({"name": self.deployed_name, "dtype": "float32", **overrides}, kind)
        bias = self.rule.bias(copy)
        if bias is not None:
            bias.assign(self.deployed_bias())
        return copy

    def deployed_bias(self) -> np.ndarray:
        """The bias of the layer as it is exported: rounded, so that no later rounding moves it."""
        rounded = self.rule.rounded_biases(self)
        value = rounded[0][1] if rounded else self.float_bias()
        return told_apart(ops.convert_to_numpy(value))

    def plain_copy(self) -> keras.Operation:
        """The inner layer as it was before wrapping, with the quantized kernels as its weights."""
        if isinstance(self.layer, OperationLayer):
            return self.layer.plain()
        return self._copy({"name": self.name})

    def _copy(
        self, overrides: dict[str, Any], kind: type[keras.layers.Layer] | None = None
    ) -> keras.layers.Layer:
        layer = self.layer
        copy = (kind or type(layer)).from_config({**layer.get_config(), **overrides})
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

"""The wrapper through which a layer computes with quantized weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.graph.rebuild import copy_variables
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.fake_quant import fake_quant_weight
from tfcompress.quantization.rules import rule_of
from tfcompress.quantization.substitution import substituted


@keras.saving.register_keras_serializable("tfcompress")
class QuantizedLayer(keras.layers.Wrapper):
    """Runs a layer with fake-quantized kernels, and with quantizers inside where LiteRT has them.

    While the inner layer is called, its kernels are replaced by `fake_quant(mask * kernel)`. The
    layer itself stays an ordinary Keras layer with its ordinary float weights, which the optimizer
    trains and which are what is saved.

    Args:
        layer: The layer. Its class decides what is quantized, through the registered rules.
        weight_bits: Bits of a weight. Defaults to 8.
        inner: Names of the activation quantizers inside the layer, each with its fixed range or
            None. Defaults to none.
        masked: For each kernel, whether its zeros are kept. Defaults to none.
        folded: Whether a batch normalization folds into the operation before it.

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
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.weight_bits = weight_bits
        self.masked = list(masked)
        self.folded = folded
        self.inner = {
            name: ActivationQuantizer(fixed_range, name=name, dtype=layer.dtype_policy)
            for name, fixed_range in (inner or {}).items()
        }
        self.supports_masking = layer.supports_masking
        # Python switches, as in ActivationQuantizer.
        self.quantizing = True
        self.frozen = False
        self.deployed_calls = 0

    @property
    def rule(self) -> Any:
        """The rule of the inner layer."""
        return rule_of(self.layer)

    def build(self, input_shape: Any = None) -> None:
        """Build the inner layer and the masks."""
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

    def quantized_kernels(self) -> list[tuple[keras.Variable, Any]]:
        """Each kernel variable with its masked and fake-quantized value, in float32."""
        with keras_internals.without_autocast():
            pairs = []
            for (kernel, axes), mask in zip(self.rule.kernels(self.layer), self.masks, strict=True):
                value = ops.cast(kernel.value, "float32")
                if mask is not None:
                    value = value * ops.cast(mask.value, "float32")
                pairs.append((kernel, fake_quant_weight(value, axes, self.weight_bits)))
        return pairs

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the inner layer with its kernels quantized."""
        pairs = self.quantized_kernels() if self.quantizing else self._masked_kernels()
        values = {id(kernel): ops.cast(value, self.compute_dtype) for kernel, value in pairs}
        with substituted(self.layer, values):
            return self.rule.call(self, inputs, *args, **kwargs)

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
        return self._copy({"name": self.deployed_name, "dtype": "float32", **overrides})

    def plain_copy(self) -> keras.layers.Layer:
        """The inner layer as it was before wrapping, with the quantized kernels as its weights."""
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
            "weight_bits": self.weight_bits,
            "inner": {name: inner.fixed_range for name, inner in self.inner.items()},
            "masked": self.masked,
            "folded": self.folded,
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

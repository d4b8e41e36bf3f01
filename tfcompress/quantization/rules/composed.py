"""Layers that LiteRT runs as several operations, with a range between any two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.quantization.bias_grid import round_bias
from tfcompress.quantization.rules.registry import Rule
from tfcompress.quantization.substitution import substituted

# Rounds a flat bias for a flat kernel.
BiasGrid = Callable[[Any, Any], Any]


class Quantizers:
    """The quantizers inside of a layer by name, and the grids of biases that are added there.

    Args:
        wrapper: The `QuantizedLayer`.
        deployed: Whether they are for the exported graph, with fixed ranges. Defaults to False.
    """

    def __init__(self, wrapper: Any, deployed: bool = False) -> None:
        self._wrapper = wrapper
        self._deployed = deployed
        self._fixed: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        """The quantizer of a name."""
        if not self._deployed:
            return self._wrapper.inner[name]
        if name not in self._fixed:
            self._fixed[name] = self._wrapper.deployed_quantizer(name)
        return self._fixed[name]

    def unit(self, source: str | None = None) -> Any:
        """What one code is worth of the values that a quantizer gives.

        Args:
            source: Name of the quantizer. Defaults to None: that of the layer's first input.

        Returns:
            A float32 scalar, 0 while values pass through; None where it is not known.
        """
        if not self._wrapper.quantizing:
            return None
        return (
            self._wrapper.source_unit() if source is None else self._wrapper.inner[source].scale()
        )

    def bias_unit(self, source: str | None = None) -> Any:
        """`unit` for rounding a bias; also None where the scheme leaves biases as they are."""
        return None if self._wrapper.scheme.arithmetic == "float" else self.unit(source)

    def bias_grid(self, source: str | None = None) -> BiasGrid | None:
        """How LiteRT stores a bias that is added to a product with one of the layer's kernels.

        Args:
            source: Name of the quantizer of what the kernel is multiplied with. Defaults to None:
                the first input of the layer.

        Returns:
            A function of a bias of shape (channels,) and of the quantized kernel of shape
            (features, channels), which returns the bias as it is rounded; or None where one of the
            scales is not known.
        """
        scheme, inputs = self._wrapper.scheme, self.bias_unit(source)
        derived = scheme.weight_range == "max" and scheme.power_of_two is None
        if inputs is None or not derived or scheme.learned == "lsq":
            return None  # in other schemes the largest weight need not have the largest code
        axis = 0 if scheme.granularity == "per_channel" else None
        steps = 2 ** (scheme.weight_bits - 1) - 1

        def rounded(bias: Any, kernel: Any) -> Any:
            largest = ops.max(ops.abs(ops.cast(kernel, "float32")), axis=axis)
            unit = inputs * ops.stop_gradient(largest) / steps
            outputs = round_bias(ops.cast(bias, "float32"), unit)
            return ops.convert_to_numpy(outputs) if isinstance(bias, np.ndarray) else outputs

        return rounded


class ComposedRule(Rule, ABC):
    """Spells a layer out in `keras.ops`, once for training and for export.

    `inner_quantizers` names the quantizers between the operations and `compose` puts them there. In
    training the attributes of the layer hold its quantized kernels, for export all of them hold
    arrays, so that nothing in the exported graph refers to a variable.
    """

    @abstractmethod
    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Quantizers,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The forward pass.

        Args:
            layer: The layer, whose weight attributes hold what to compute with.
            quantizer: Returns the inner quantizer of a name, and the grids of biases.
            inputs: The layer's inputs, quantized.
            *args: Further arguments of the call.
            **kwargs: Further arguments of the call, `training` among them.
        """

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward pass with the quantizers that learn."""
        return self.compose(wrapper.layer, Quantizers(wrapper), inputs, *args, **kwargs)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same with constants and fixed ranges."""
        quantizer = Quantizers(wrapper, deployed=True)
        with substituted(wrapper.layer, wrapper.constants()):
            return self.compose(wrapper.layer, quantizer, inputs, *args, **kwargs)

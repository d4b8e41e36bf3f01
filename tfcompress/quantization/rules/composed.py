"""Layers that LiteRT runs as several operations, with a range between any two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.quantization.rules.registry import Rule
from tfcompress.quantization.substitution import substituted


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
        quantizer: Callable[[str], Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The forward pass.

        Args:
            layer: The layer, whose weight attributes hold what to compute with.
            quantizer: Returns the inner quantizer of a name.
            inputs: The layer's inputs, quantized.
            *args: Further arguments of the call.
            **kwargs: Further arguments of the call, `training` among them.
        """

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward pass with the quantizers that learn."""
        return self.compose(wrapper.layer, wrapper.inner.__getitem__, inputs, *args, **kwargs)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The same with constants and fixed ranges."""
        fixed: dict[str, Any] = {}

        def quantizer(name: str) -> Any:
            if name not in fixed:
                fixed[name] = wrapper.deployed_quantizer(name)
            return fixed[name]

        with substituted(wrapper.layer, wrapper.constants()):
            return self.compose(wrapper.layer, quantizer, inputs, *args, **kwargs)

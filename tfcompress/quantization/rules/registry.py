"""The registry of quantization rules: one small rule for each kind of layer or operation."""

from __future__ import annotations

from enum import Enum
from typing import Any

import keras

from tfcompress.graph import Node
from tfcompress.graph.registry import Registry
from tfcompress.quantization.bias_grid import round_bias
from tfcompress.quantization.integer_arithmetic import TwoRoundings
from tfcompress.quantization.rules.operation_layer import operation_of


class Role(Enum):
    """What LiteRT's kernel for an operation asks of its activations' ranges."""

    COMPUTE = "compute"  # reads quantized inputs, output has a range of its own
    ACTIVATION = "activation"  # like COMPUTE, but may fuse into the operation before it
    PASS_THROUGH = "pass-through"  # output keeps the scale of the input
    SAME_RANGE = "same range"  # all inputs and the output share one range
    FLOAT = "float"  # no integer kernel, or no rule: stays float


# Names of the quantizers inside a layer, each with the range that LiteRT imposes, or None.
InnerRanges = dict[str, tuple[float, float] | None]


class Rule:
    """How one kind of operation is quantized. Subclass, override, register.

    Attributes:
        takes_named_inputs: Whether layers of this kind take several tensors by name, as
            `MultiHeadAttention(query, value)` does, and not one tensor or a list of tensors.
        summing_kernel: Position in `kernels` of the one whose products the bias is added to.
        summed_range: Name of the quantizer inside the layer of what that kernel is multiplied with,
            or None where it is the layer's input.

    Example: a custom layer that scales its input by a kernel, one factor for each channel.

    ```python
    @register(ChannelScale)
    class ChannelScaleRule(Rule):
        def kernels(self, layer):
            return [(layer.kernel, (-1,))]
    ```
    """

    takes_named_inputs = False
    summing_kernel = 0
    summed_range: str | None = None

    def role(self, node: Node) -> Role:
        """What the operation asks of ranges. Defaults to `COMPUTE`, or `FLOAT` where refused."""
        return Role.FLOAT if self.refusal(node) else Role.COMPUTE

    def folds_batchnorm(self, node: Node) -> bool:
        """Whether a BatchNormalization right behind is folded into the operation."""
        return False

    def fuses_relu(self, node: Node) -> bool:
        """Whether a ReLU or ReLU6 right behind becomes part of the operation."""
        return False

    def kernels(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """Weights to quantize, each with the axes along which its scales differ."""
        return []

    def units(self, wrapper: Any) -> tuple[Any, ...]:
        """What one of the integer sums is worth, for each that `call` lets the wrapper requantize.

        Each is a float32 tensor of shape (channels,) or (1,), or None where it is not known.
        """
        return ()

    def roundings(self, wrapper: Any, number: int) -> TwoRoundings | None:
        """How the sums in the unit of that number are requantized where not XNNPACK does it."""
        return None

    def bias(self, layer: keras.layers.Layer) -> keras.Variable | None:
        """The bias that LiteRT adds to the integer sums of products, or None."""
        return None

    def rounded_biases(self, wrapper: Any) -> list[tuple[keras.Variable, Any]]:
        """Each bias with its value in float32 as LiteRT stores it; none of unknown units."""
        bias, value = self.bias(wrapper.layer), wrapper.float_bias()
        unit = None if value is None or wrapper.bias_folds else wrapper.accumulator_unit()
        return [] if unit is None else [(bias, round_bias(value, unit))]

    def output_unit(self, wrapper: Any) -> Any:
        """What one code of the outputs is worth that have their range from inside, or None."""
        return None

    def refusal(self, node: Node) -> str | None:
        """Why this very operation must stay float, or None."""
        return None

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """The output range that LiteRT imposes, or None."""
        return None

    def quantizes_output(self, node: Node, index: int) -> bool:
        """Whether a quantizer inside the layer gives its output number `index` its range."""
        return False

    def rounds(self, node: Node) -> bool:
        """Whether a pass-through operation makes values between the codes, which LiteRT rounds."""
        return False

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Names of the activation quantizers needed inside the layer, with their fixed ranges."""
        return {}

    def wraps(self, node: Node) -> bool:
        """Whether the layer needs a wrapper, in training or to be exported in another form."""
        return node.layer is not None and bool(
            self.kernels(node.layer) or self.inner_quantizers(node)
        )

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward pass in training and evaluation, with the kernels already quantized."""
        return wrapper.layer(inputs, *args, **kwargs)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward pass as it is exported, made of layers that convert to integer operations.

        Args:
            wrapper: The `QuantizedLayer` that holds the trained layer.
            inputs: Symbolic inputs.
            *args: Further arguments of the call.
            **kwargs: Further arguments of the call.
        """
        return wrapper.baked_copy()(inputs, *args, **kwargs)


class FloatRule(Rule):
    """The rule of operations that no rule is registered for."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def refusal(self, node: Node) -> str | None:
        """The reason that was given."""
        return self.reason


_RULES: Registry[Rule] = Registry()

# Registers a rule class for layer classes and operations, as in the example of `Rule`.
register = _RULES.register


def rule_of(operation: keras.Operation) -> Rule:
    """The rule of a layer or operation; a `FloatRule` with the reason when there is none."""
    operation = operation_of(operation)
    name = type(operation).__name__
    missing = f"the operation {name}"
    if isinstance(operation, keras.layers.Layer):
        missing = f"{name} layers"
    return _RULES.find(operation) or FloatRule(f"no quantization rule for {missing}")

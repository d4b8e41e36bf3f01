"""Activation functions, as layers, as operations, and inside of other layers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from tfcompress.graph import Node
from tfcompress.quantization.fake_quant import fake_quant_activation
from tfcompress.quantization.rules.composed import ComposedRule
from tfcompress.quantization.rules.decompositions import (
    ALIASES,
    KINDS,
    ActivationKind,
    is_known,
    refused,
)
from tfcompress.quantization.rules.decompositions import TANH_RANGE as TANH_RANGE
from tfcompress.quantization.rules.decompositions import UNIT_RANGE as UNIT_RANGE
from tfcompress.quantization.rules.operation_layer import operation_of
from tfcompress.quantization.rules.registry import InnerRanges, Role, Rule, register

PRE_ACTIVATION = "pre_activation"


def activation_name(function: Any) -> str:
    """The name of an activation function, in the spelling of `keras.activations`.

    Args:
        function: A function, an operation, a layer, or None for `"linear"`.
    """
    if function is None:
        return "linear"
    if isinstance(function, partial):
        return activation_name(function.func)
    if isinstance(function, layers.Activation):
        return activation_name(function.activation)
    name: str = getattr(function, "__name__", None) or type(function).__name__
    if not isinstance(function, keras.Operation):
        return name
    return ALIASES.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def activation_kind(function: Any) -> ActivationKind:
    """How LiteRT runs an activation function.

    Args:
        function: A function, an operation or layer that applies one, or None.
    """
    if isinstance(function, layers.Activation):
        return activation_kind(function.activation)
    name = activation_name(function)
    make = KINDS.get(name)
    base = function.func if isinstance(function, partial) else function
    if make is None or not (
        function is None or isinstance(base, keras.Operation) or is_known(base)
    ):
        return refused(f"LiteRT has no integer kernel for {name}")
    given = function.keywords if isinstance(function, partial) else {}
    arguments = {
        key: given.get(key, getattr(base, key, None))
        for key in inspect.signature(make).parameters
        if key in given or hasattr(base, key)
    }
    return make(**arguments)


def is_fused(function: Any) -> bool:
    """Whether a layer's own activation becomes part of its operation."""
    kind = activation_kind(function)
    return kind.role in (Role.ACTIVATION, Role.PASS_THROUGH) and kind.compose is None


def activation_refusal(function: Any) -> str | None:
    """Why a layer cannot have a function as its own activation, or None."""
    kind = activation_kind(function)
    if kind.role is Role.FLOAT:
        return f"{kind.reason}; as a layer of its own it would be the only operation in float"
    if kind.role is Role.PASS_THROUGH and not is_fused(function):
        return f"{activation_name(function)} has an integer form only as a layer of its own"
    return None


def activation_quantizers(function: Any) -> InnerRanges:
    """The quantizers inside a layer that its activation function needs."""
    return {} if is_fused(function) else {PRE_ACTIVATION: None, **activation_kind(function).inner}


def activate(function: Any, x: Any, quantizer: Callable[[str], Any]) -> Any:
    """Apply a layer's own activation function with the quantizers that it needs.

    Args:
        function: The function, operation or layer, or None.
        x: What the layer computes before its activation, not quantized.
        quantizer: Returns the inner quantizer of a name; see `activation_quantizers`.
    """
    if function is None:
        return x
    if is_fused(function):
        return function(x)
    x = quantizer(PRE_ACTIVATION)(x)
    compose = activation_kind(function).compose
    return function(x) if compose is None else compose(x, quantizer)


@register(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax, "ReLU")
@register("Celu", "Elu", "Gelu", "Glu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh")
@register("LeakyRelu", "LogSigmoid", "LogSoftmax", "Mish", "Relu", "Relu6", "Selu", "Sigmoid")
@register("Silu", "SoftShrink", "Softmax", "Softplus", "Softsign", "SparsePlus", "SparseSigmoid")
@register("Sparsemax", "Squareplus", "Tanh", "TanhShrink", "Threshold", "Exp")
class ActivationRule(ComposedRule):
    """A layer or operation that applies one activation function."""

    def kind(self, operation: keras.Operation) -> ActivationKind:
        """How LiteRT runs the function."""
        return activation_kind(operation_of(operation))

    def role(self, node: Node) -> Role:
        """That of the function."""
        return Role.FLOAT if self.refusal(node) else self.kind(node.operation).role

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        """That of the function."""
        return self.kind(node.operation).fixed_range

    def refusal(self, node: Node) -> str | None:
        """Functions without an integer form, and masked softmax."""
        if len(node.inputs) > 1:
            return "a mask is given, for which LiteRT's softmax has no integer kernel"
        return self.kind(node.operation).reason

    def rounds(self, node: Node) -> bool:
        """When a constant is among the outputs."""
        return self.kind(node.operation).rounds

    def inner_quantizers(self, node: Node) -> InnerRanges:
        """Those between the operations that the function is composed of."""
        return self.kind(node.operation).inner

    def wraps(self, node: Node) -> bool:
        """When the exported form is another one."""
        kind = self.kind(node.operation)
        return kind.compose is not None or kind.deployed is not None

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The function, spelled out where LiteRT needs it so."""
        if self.kind(wrapper.layer).compose is None:
            return wrapper.layer(inputs)
        return super().call(wrapper, inputs, *args, **kwargs)

    def compose(
        self,
        layer: keras.layers.Layer,
        quantizer: Callable[[str], Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The function as a sequence of operations."""
        kind = self.kind(layer)
        form = kind.compose or (lambda x, _: (kind.deployed or operation_of(layer))(x))
        return form(inputs, quantizer)


@register(layers.PReLU)
class PReLURule(Rule):
    """One operation, whose slopes are quantized with one range for all of them."""

    def refusal(self, node: Node) -> str | None:
        """Slopes whose shape is not fixed."""
        if any(size is None for size in node.operation.alpha.shape):
            return "the shape of its slopes is not fixed; set `shared_axes`"
        return None

    def wraps(self, node: Node) -> bool:
        """For the slopes."""
        return True

    def call(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """`PReLU` with quantized slopes."""
        alpha = ops.convert_to_tensor(wrapper.layer.alpha)
        slopes = quantized_constant(alpha) if wrapper.quantizing else alpha
        # Straight through: the outermost slopes lie a fraction of a code outside of the range.
        slopes = alpha + ops.stop_gradient(ops.cast(slopes, alpha.dtype) - alpha)
        return ops.relu(inputs) - slopes * ops.relu(-inputs)

    def deploy(self, wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer, which the converter recognizes as one operation."""
        copy = wrapper.baked_copy()
        copy.alpha.assign(quantized_constant(copy.alpha.value))
        return copy(inputs)


def quantized_constant(values: Any) -> Any:
    """An array rounded as LiteRT's converter rounds the constants of elementwise operations.

    Args:
        values: Float array of any shape.

    Returns:
        An array of the same shape on an asymmetric grid of 8 bits with one scale.
    """
    low = ops.minimum(ops.min(values), 0.0)
    high = ops.maximum(ops.max(values), 0.0)
    return fake_quant_activation(values, low, high)

"""Activation functions: which fuse, which have a fixed output range, which stay float."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.graph import Node
from tfcompress.quantization.rules.registry import Role, Rule, register

# LiteRT's integer kernels write these outputs with scale 1/256 (tanh: 1/128), whatever the file
# says.
UNIT_RANGE = (0.0, 255 / 256)
TANH_RANGE = (-1.0, 127 / 128)


@dataclass(frozen=True)
class ActivationKind:
    """How LiteRT runs an activation function.

    Attributes:
        role: `ACTIVATION` fuses into the operation before it, `COMPUTE` is an operation of its own,
            `PASS_THROUGH` does nothing, `FLOAT` has no integer kernel.
        fixed_range: Output range that the kernel imposes, or None.
    """

    role: Role
    fixed_range: tuple[float, float] | None = None


_OWN_OPERATION = ActivationKind(Role.COMPUTE)
_KINDS = {
    "linear": ActivationKind(Role.PASS_THROUGH),
    "relu": ActivationKind(Role.ACTIVATION),
    "relu6": ActivationKind(Role.ACTIVATION),
    "softmax": ActivationKind(Role.COMPUTE, UNIT_RANGE),
    "sigmoid": ActivationKind(Role.COMPUTE, UNIT_RANGE),
    "tanh": ActivationKind(Role.COMPUTE, TANH_RANGE),
    "silu": _OWN_OPERATION,
    "gelu": _OWN_OPERATION,
    "hard_silu": _OWN_OPERATION,
    "leaky_relu": _OWN_OPERATION,
}


def activation_name(function: Any) -> str:
    """The name of an activation function; `"linear"` for None."""
    if function is None:
        return "linear"
    return getattr(function, "__name__", None) or type(function).__name__


def activation_kind(function: Any) -> ActivationKind:
    """How LiteRT runs an activation function given as a callable or None."""
    return _KINDS.get(activation_name(function), ActivationKind(Role.FLOAT))


class _ActivationRule(Rule, ABC):
    """Common to rules whose behaviour follows from an activation function's name."""

    @abstractmethod
    def name(self, node: Node) -> str:
        """Name of the function that a node applies."""

    def kind(self, node: Node) -> ActivationKind:
        return _KINDS.get(self.name(node), ActivationKind(Role.FLOAT))

    def role(self, node: Node) -> Role:
        return self.kind(node).role

    def fixed_range(self, node: Node) -> tuple[float, float] | None:
        return self.kind(node).fixed_range

    def refusal(self, node: Node) -> str | None:
        if self.kind(node).role is Role.FLOAT:
            return f"LiteRT has no integer kernel for {self.name(node)}"
        return None


@register(keras.layers.Activation)
class ActivationLayerRule(_ActivationRule):
    """`Activation("relu")` and the like."""

    def name(self, node: Node) -> str:
        """Name of the layer's function."""
        return activation_name(node.operation.activation)


@register(keras.layers.ReLU)
class ReLURule(_ActivationRule):
    """`ReLU` in the forms that LiteRT has: plain, capped at 6, and leaky."""

    def name(self, node: Node) -> str:
        """`relu`, `relu6`, `leaky_relu`, or a description of what is not supported."""
        layer = node.operation
        slope, cap = float(layer.negative_slope), layer.max_value
        if layer.threshold == 0 and slope == 0 and cap in (None, 6):
            return "relu" if cap is None else "relu6"
        if layer.threshold == 0 and cap is None:
            return "leaky_relu"
        return f"ReLU(max_value={cap}, negative_slope={slope}, threshold={layer.threshold})"


@register(keras.layers.Softmax, "Softmax")
class SoftmaxRule(_ActivationRule):
    """Softmax over the last axis."""

    def name(self, node: Node) -> str:
        """`softmax`, unless over another axis."""
        axis = getattr(node.operation, "axis", -1)
        rank = len(node.inputs[0].shape)
        return "softmax" if axis in (-1, rank - 1, [-1]) else f"softmax over axis {axis}"


def _register_by_name(name: str, *kinds: type | str) -> None:
    class NamedRule(_ActivationRule):
        """An operation that applies one activation function."""

        def name(self, node: Node) -> str:
            return name

    register(*kinds)(NamedRule)


_register_by_name("relu", "Relu")
_register_by_name("relu6", "Relu6")
_register_by_name("sigmoid", "Sigmoid")
_register_by_name("tanh", "Tanh")
_register_by_name("silu", "Silu")
_register_by_name("gelu", "Gelu")
_register_by_name("hard_silu", "HardSilu")
_register_by_name("leaky_relu", keras.layers.LeakyReLU, "LeakyRelu")


@register("ReLU")
class ReluOperationRule(ReLURule):
    """`keras.activations.relu` with arguments, as an operation."""

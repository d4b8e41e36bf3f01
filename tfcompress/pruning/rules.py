"""Which weights of which layer types are worth pruning: one registered rule a layer type."""

from __future__ import annotations

from dataclasses import dataclass

import keras

_DEPTHWISE_REASON = (
    "depthwise kernel: few weights that each cost much accuracy; name it in `include` to prune it"
)


@dataclass(frozen=True)
class PruningRule:
    """What magnitude pruning does with a layer type.

    Attributes:
        attributes: Attributes of the layer that hold weights to prune. One that a layer does not
            have (the second matrix of a tied embedding) is ignored.
        on_request: Attributes that are pruned only when `include` names them.
        reason: Why those are not pruned unasked.
    """

    attributes: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    reason: str = ""


_RULES: dict[type, PruningRule] = {}


def register_pruning_rule(layer_class: type, rule: PruningRule) -> None:
    """Register which weights of a layer type are pruned; subclasses inherit the rule.

    Instead of registering, a layer may have a method `get_prunable_weights()` that returns its
    weights to prune.

    Args:
        layer_class: A layer class.
        rule: The rule; replaces an earlier one of the class.

    Raises:
        ValueError: If `layer_class` is not a layer class or the rule names no attribute.

    Example:

    ```python
    register_pruning_rule(MyDense, PruningRule(attributes=("w",)))
    ```
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise ValueError(
            "A pruning rule belongs to a subclass of `keras.layers.Layer`. "
            f"Received: {layer_class!r}"
        )
    if not rule.attributes and not rule.on_request:
        raise ValueError(f"A pruning rule must name at least one attribute. Received: {rule!r}")
    _RULES[layer_class] = rule


def pruning_rule(layer: keras.layers.Layer) -> PruningRule | None:
    """The rule of the layer's class or of its nearest base class; None if there is none."""
    for candidate in type(layer).__mro__:
        if candidate in _RULES:
            return _RULES[candidate]
    return None


_KERNEL = PruningRule(attributes=("kernel",))
_RECURRENT = PruningRule(attributes=("kernel", "recurrent_kernel"))
_DEPTHWISE = PruningRule(on_request=("kernel",), reason=_DEPTHWISE_REASON)
_SEPARABLE = PruningRule(
    attributes=("pointwise_kernel",),
    on_request=("depthwise_kernel",),
    reason=_DEPTHWISE_REASON,
)
_BUILT_IN: dict[str, PruningRule] = {
    "Dense": _KERNEL,
    "EinsumDense": _KERNEL,
    "Conv1D": _KERNEL,
    "Conv2D": _KERNEL,
    "Conv3D": _KERNEL,
    "Conv1DTranspose": _KERNEL,
    "Conv2DTranspose": _KERNEL,
    "Conv3DTranspose": _KERNEL,
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "Embedding": PruningRule(attributes=("embeddings",)),
    "ReversibleEmbedding": PruningRule(attributes=("embeddings", "reverse_embeddings")),
    "SimpleRNNCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "LSTMCell": _RECURRENT,
}
for _name, _rule in _BUILT_IN.items():
    # A class that this version of Keras does not have needs no rule.
    if hasattr(keras.layers, _name):
        register_pruning_rule(getattr(keras.layers, _name), _rule)

# The cell of the ConvLSTM layers is not exported; reach its class through the public layer.
register_pruning_rule(type(keras.layers.ConvLSTM2D(1, 1).cell), _RECURRENT)

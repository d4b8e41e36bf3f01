"""Which weights of which layer types are worth pruning: one registered rule a layer type."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.registry import Registry

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
        layout: How LiteRT stores the weights of `attributes`, which patterns need to know:
            `"dense"` for `(in, out)`, `"convolution"` for `(..., in, out)`,
            `"transposed_convolution"` for `(..., out, in)`, `"depthwise"` for
            `(..., in, multiplier)`, `"recurrent"` for `(in, units)`, `"rows"` for as it is,
            `"einsum"` for as the layer's `equation` says. Empty: not known.
        on_request_layout: The same for `on_request`.
    """

    attributes: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    reason: str = ""
    layout: str = ""
    on_request_layout: str = ""


_RULES: Registry[PruningRule] = Registry()


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
    register_pruning_rule(MyDense, PruningRule(attributes=("w",), layout="dense"))
    ```
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise ValueError(
            "A pruning rule belongs to a subclass of `keras.layers.Layer`. "
            f"Received: {layer_class!r}"
        )
    if not rule.attributes and not rule.on_request:
        raise ValueError(f"A pruning rule must name at least one attribute. Received: {rule!r}")
    _RULES.add(rule, layer_class)


def pruning_rule(layer: keras.layers.Layer) -> PruningRule | None:
    """The rule of the layer's class or of its nearest base class; None if there is none."""
    return _RULES.find(layer)


_DENSE = PruningRule(("kernel",), layout="dense")
_CONVOLUTION = PruningRule(("kernel",), layout="convolution")
_TRANSPOSED = PruningRule(("kernel",), layout="transposed_convolution")
_RECURRENT = PruningRule(("kernel", "recurrent_kernel"), layout="recurrent")
_DEPTHWISE = PruningRule(
    on_request=("kernel",), reason=_DEPTHWISE_REASON, on_request_layout="depthwise"
)
_SEPARABLE = PruningRule(
    ("pointwise_kernel",), ("depthwise_kernel",), _DEPTHWISE_REASON, "convolution", "depthwise"
)
_BUILT_IN: dict[str, PruningRule] = {
    "Dense": _DENSE,
    "EinsumDense": PruningRule(("kernel",), layout="einsum"),
    "Conv1D": _CONVOLUTION,
    "Conv2D": _CONVOLUTION,
    "Conv3D": _CONVOLUTION,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "Embedding": PruningRule(("embeddings",), layout="rows"),
    "ReversibleEmbedding": PruningRule(("embeddings", "reverse_embeddings")),
    "SimpleRNNCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "LSTMCell": _RECURRENT,
}
for _name, _rule in _BUILT_IN.items():
    # A class that this version of Keras does not have needs no rule.
    if hasattr(keras.layers, _name):
        register_pruning_rule(getattr(keras.layers, _name), _rule)

register_pruning_rule(keras_internals.ConvLSTMCell, PruningRule(("kernel", "recurrent_kernel")))

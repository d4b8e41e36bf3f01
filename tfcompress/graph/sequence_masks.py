"""Which tensors carry a Keras mask that says which steps of a sequence count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras import layers

if TYPE_CHECKING:
    from tfcompress.graph.flat import Node, Tensor


def is_masked(tensor: Tensor) -> bool:
    """Whether Keras hands a mask along with a tensor to the layers that read it.

    Args:
        tensor: A tensor of a graph.

    Returns:
        Whether a `Masking` or an `Embedding(mask_zero=True)` lies before it, with nothing between
        that drops the mask.
    """
    waiting, known = [tensor], set()
    while waiting:
        node = waiting.pop().producer
        if node is None or node in known:
            continue
        known.add(node)
        if _makes_mask(node):
            return True
        if _passes_mask(node):
            waiting += node.inputs
    return False


def _inside(node: Node) -> layers.Layer | None:
    layer = node.layer
    if isinstance(layer, layers.Wrapper) and not isinstance(layer, layers.TimeDistributed):
        return layer.layer
    return layer


def _makes_mask(node: Node) -> bool:
    layer = _inside(node)
    return isinstance(layer, layers.Masking) or bool(
        isinstance(layer, layers.Embedding) and layer.mask_zero
    )


def _passes_mask(node: Node) -> bool:
    layer = _inside(node)
    if isinstance(layer, (layers.RNN, layers.Bidirectional)):
        return bool(layer.return_sequences)
    # Pooling over the steps uses the mask up.
    return layer is not None and layer.supports_masking and "Global" not in type(layer).__name__

"""Dense, einsum and embedding layers."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.graph import Node
from tfcompress.graph.einsum import dense_axis_names
from tfcompress.pruning.structured.coupling import Coupling, Flow
from tfcompress.pruning.structured.kept import Kept
from tfcompress.pruning.structured.rules.activations import is_elementwise, keeps_zero
from tfcompress.pruning.structured.rules.registry import (
    Rule,
    describe,
    pinned,
    register,
)


def activated(node: Node, coupling: Coupling, axes: list[Any], zero: bool = True) -> Flow:
    """The output of a layer behind its activation.

    Args:
        node: The node, whose layer has an `activation`.
        coupling: The channels.
        axes: Labels along each axis of the output.
        zero: Whether channels whose weights are zero are zero before the activation.
    """
    function = node.operation.activation
    if not is_elementwise(function):
        name = getattr(function, "__name__", type(function).__name__)
        for labels in axes:
            coupling.pin(labels, f"{describe(node)} has the activation {name} over its channels")
    return Flow(axes, zero and keeps_zero(function))


def refuse_changed(node: Node, coupling: Coupling) -> list[Flow] | None:
    """Pin a layer whose kernel is quantized or has LoRA adapters; None for any other."""
    layer = node.operation
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return pinned(node, coupling, f"the kernel of {describe(node)} is adapted or quantized")
    return None


@register(layers.Dense)
class DenseRule(Rule):
    """`units` new channels, made from those along the last axis."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Kernel `(in, out)` and bias."""
        if (refused := refuse_changed(node, coupling)) is not None:
            return refused
        layer, given = node.operation, node.inputs[0]
        made = coupling.fresh(node, layer.units)
        coupling.read(node, layer.kernel, 0, given, -1)
        coupling.bind(node, layer.kernel, 1, made)
        coupling.bind(node, layer.bias, 0, made)
        flow = coupling.flow(given)
        others = flow.axes[:-1]
        # Along other axes a removed position would come out as the bias.
        zero = all(x is None for x in others) or (flow.zero and layer.bias is None)
        return [activated(node, coupling, [*others, made], zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The units."""
        return {"units": kept.weight(node.operation.kernel, 1)}


@register(layers.EinsumDense)
class EinsumDenseRule(Rule):
    """New channels along every axis that the kernel adds to the output."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """Letters that the equation contracts are read, new letters are made."""
        if (refused := refuse_changed(node, coupling)) is not None:
            return refused
        layer, given = node.operation, node.inputs[0]
        source, letters, target = dense_axis_names(layer.equation, len(given.shape))
        flow = coupling.flow(given)
        along: dict[str, Any] = dict(zip(source, flow.axes, strict=True))
        for axis, letter in enumerate(letters):
            if letter not in source:
                size = layer.kernel.shape[axis]
                along[letter] = coupling.fresh(node, size, f"channels '{letter}'")
                coupling.bind(node, layer.kernel, axis, along[letter])
            elif letter not in target:
                coupling.read(node, layer.kernel, axis, given, source.index(letter))
            else:
                coupling.bind(node, layer.kernel, axis, along[letter])
        for letter in source:
            if letter not in letters and letter not in target:
                coupling.pin(along[letter], f"{describe(node)} sums over them")
        for axis, letter in enumerate(_bias_letters(layer, target)):
            if letter in (layer.bias_axes or ""):
                coupling.bind(node, layer.bias, axis, along[letter])
        free = [x for x in source if x in target and along[x] is not None]
        biased = set(layer.bias_axes or "")
        zero = all(flow.zero and (not biased or x in biased) for x in free)
        zero = zero and all(x in biased for x in letters if x not in source and biased)
        return [activated(node, coupling, [along[letter] for letter in target], zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The output shape, whose entries belong to the last letters of the output."""
        layer = node.operation
        _, letters, target = dense_axis_names(layer.equation, len(node.inputs[0].shape))
        shape = layer.get_config()["output_shape"]
        sizes = [shape] if isinstance(shape, int) else list(shape)
        named = dict(enumerate(target[len(target) - len(sizes) :]))
        for index, letter in named.items():
            if sizes[index] is None:
                continue
            if letter in letters:
                sizes[index] = kept.weight(layer.kernel, letters.index(letter))
            else:
                sizes[index] = kept.tensor(node.outputs[0], target.index(letter))
        return {"output_shape": sizes[0] if isinstance(shape, int) else tuple(sizes)}


def _bias_letters(layer: layers.EinsumDense, target: list[str]) -> list[str]:
    """The letters of the bias's axes: those of the output from its first own one on."""
    if not layer.bias_axes:
        return []
    first = min(target.index(letter) for letter in layer.bias_axes)
    return target[first:][: len(layer.bias.shape)]


@register(layers.Embedding)
class EmbeddingRule(Rule):
    """`output_dim` new channels."""

    def couple(self, node: Node, coupling: Coupling) -> list[Flow]:
        """The table `(words, out)`."""
        layer, given = node.operation, node.inputs[0]
        if (refused := refuse_changed(node, coupling)) is not None:
            return refused
        if node.kwargs.get("reverse", len(node.args) > 1 and node.args[1]):
            return self._reversed(node, coupling)
        coupling.pin_others(given, (), f"{describe(node)} reads them as indices")
        made = coupling.fresh(node, layer.output_dim)
        coupling.bind(node, layer.embeddings, 1, made)
        return [Flow([*[None] * len(given.shape), made])]

    def _reversed(self, node: Node, coupling: Coupling) -> list[Flow]:
        # A `ReversibleEmbedding` as the last layer of a language model, usually on the same table.
        layer, given = node.operation, node.inputs[0]
        table, axis = layer.embeddings, 1
        if not layer.tie_weights:
            table, axis = layer.reverse_embeddings, 0
        coupling.read(node, table, axis, given, -1)
        flow = coupling.flow(given)
        return [Flow([*flow.axes[:-1], None], flow.zero)]

    def config(self, node: Node, kept: Kept) -> dict[str, Any]:
        """The width of the table."""
        return {"output_dim": kept.weight(node.operation.embeddings, 1)}

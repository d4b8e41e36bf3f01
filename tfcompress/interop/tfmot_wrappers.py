"""What tensorflow-model-optimization wraps around layers: masks, centroids, fake quantization.

Reads the wrappers' attributes only, so that nothing here imports tfmot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Range = tuple[float, float]

_PACKAGE = "tensorflow_model_optimization"
_PRUNING = ("PruneLowMagnitude",)
_CLUSTERING = ("ClusterWeights", "ClusterWeightsRNN", "ClusterWeightsMHA")
_QUANTIZATION = ("QuantizeWrapper", "QuantizeWrapperV2")
_ANNOTATION = ("QuantizeAnnotate",)
_INPUT_QUANTIZER = "QuantizeLayer"


@dataclass
class Unwrapped:
    """A Keras 2 layer without what tfmot put around it.

    Args:
        layer: The layer inside.
        weights: Name and value of each weight as the wrapped layer computes with it, except that
            fake quantization is left off.
        masks: For each weight its mask, float of 0 and 1, or None.
        output_range: What the output is quantized over.
        pre_activation_range: What is quantized between the layer and its activation.
        weight_grid: Bits of the weights, and whether all of them share one scale; None where the
            weights are not quantized.
        parts: What each wrapper was for, and what became of it; for the record.
    """

    layer: Any
    weights: list[tuple[str, np.ndarray]]
    masks: list[np.ndarray | None]
    output_range: Range | None = None
    pre_activation_range: Range | None = None
    weight_grid: tuple[int, bool] | None = None
    parts: list[tuple[str, bool, str]] = field(default_factory=list)


def is_quantization_wrapper(layer: Any) -> bool:
    """Whether a layer is one of tfmot's for quantization-aware training."""
    return _is(layer, (*_QUANTIZATION, _INPUT_QUANTIZER))


def is_input_quantizer(layer: Any) -> bool:
    """Whether a layer quantizes its input and does nothing else."""
    return _is(layer, (_INPUT_QUANTIZER,))


def input_quantizer_range(layer: Any) -> Range | None:
    """What such a layer has learned, or None when it does nothing."""
    return _range(layer.quantizer_vars) if layer.quantizer else None


def unwrap(layer: Any) -> Unwrapped:
    """Take tfmot's wrappers off a layer.

    Args:
        layer: A tf_keras layer, wrapped or not.

    Returns:
        The layer inside, and what the wrappers held.
    """
    if _is(layer, _ANNOTATION):
        inner = unwrap(layer.layer)
        inner.parts.append(("annotation for quantization", True, "`quantize_aware` plans anew"))
        return inner
    if _is(layer, _PRUNING):
        return _unwrap_pruned(layer)
    if _is(layer, _CLUSTERING):
        return _unwrap_clustered(layer)
    if _is(layer, _QUANTIZATION):
        return _unwrap_quantized(layer)
    weights = [(weight_name(weight), weight.numpy()) for weight in layer.weights]
    return Unwrapped(layer, weights, [None] * len(weights))


def weight_name(variable: Any) -> str:
    """`"kernel"` of `"conv/kernel:0"`."""
    return str(variable.name).split(":")[0].split("/")[-1]


def _unwrap_pruned(wrapper: Any) -> Unwrapped:
    layer = wrapper.layer
    known = {id(weight): mask.numpy() for weight, mask, _ in wrapper.pruning_vars}
    masks = [known.get(id(weight)) for weight in layer.weights]
    weights = []
    for weight, mask in zip(layer.weights, masks, strict=True):
        value = weight.numpy()
        # Within an epoch tfmot's weights are dense; what the layer computes with is masked.
        weights.append((weight_name(weight), value if mask is None else np.where(mask, value, 0)))
    zeros = sum(int(np.sum(mask == 0)) for mask in known.values())
    total = sum(mask.size for mask in known.values())
    parts = [("pruning mask", True, f"{zeros} of {total} weights are zero")] if known else []
    return Unwrapped(layer, weights, masks, parts=parts)


def _unwrap_clustered(wrapper: Any) -> Unwrapped:
    wrapper.update_clustered_weights_associations()
    layer = wrapper.layer
    # The wrapper replaces variables by tensors, which Keras 2 then no longer lists.
    weights = [
        (weight_name(weight), weight.numpy())
        for weight in layer.weights
        if not any(weight is known for known in wrapper.original_clusterable_weights.values())
    ]
    parts = []
    for position, name in sorted(wrapper.position_original_weights.items()):
        value = np.asarray(wrapper.get_weight_from_layer(name))
        original = wrapper.original_clusterable_weights[name]
        weights.insert(position, (weight_name(original), value))
        parts.append(("clusters", True, f"{len(np.unique(value))} values in {name}"))
    return Unwrapped(layer, weights, [None] * len(weights), parts=parts)


def _unwrap_quantized(wrapper: Any) -> Unwrapped:
    layer = wrapper.layer
    found = [*wrapper._trainable_weights, *layer.weights]
    found += [weight for weight, _, _ in wrapper._weight_vars]
    variables = list({id(variable): variable for variable in found}.values())
    weights = [(weight_name(variable), variable.numpy()) for variable in variables]
    output = before = None
    for activation in wrapper._quantize_activations:
        output = _range(getattr(activation, "_post_activation_vars", {})) or output
        before = _range(getattr(activation, "_pre_activation_vars", {})) or before
    if wrapper._output_quantizers:
        output = _range(wrapper._output_quantizer_vars) or output
    parts, grid = [], None
    for weight, quantizer, ranges in wrapper._weight_vars:
        if not ranges:
            continue
        bits, shared = int(getattr(quantizer, "num_bits", 8)), np.size(ranges["min_var"]) == 1
        grid = (bits, shared)
        words = f"{bits} bits, one scale {'in all' if shared else 'for each output channel'}"
        # tfmot's range of a weight is that of its values one step ago.
        known = _is(quantizer, ("LastValueQuantizer",))
        note = words if known else f"{words}, from the values and not as {type(quantizer).__name__}"
        parts.append((f"range of {weight_name(weight)}", known, note))
    return Unwrapped(layer, weights, [None] * len(weights), output, before, grid, parts)


def _is(layer: Any, names: tuple[str, ...]) -> bool:
    kinds = type(layer).__mro__
    return any(kind.__name__ in names and kind.__module__.startswith(_PACKAGE) for kind in kinds)


def _range(variables: Any) -> Range | None:
    if not variables or "min_var" not in variables:
        return None
    low, high = np.asarray(variables["min_var"]), np.asarray(variables["max_var"])
    return (float(low), float(high)) if low.size == 1 else None

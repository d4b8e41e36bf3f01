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


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """How tfmot quantizes the weights of a layer.

    Args:
        bits: Width of the codes.
        limits: By name of a weight what its largest code stands for, of size 1 or one for each
            channel of the last axis; None where the range is not symmetric, as LiteRT has it.
        shared: Whether all values of a weight share one scale.
    """

    bits: int
    limits: dict[str, np.ndarray | None]
    shared: bool


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
        weight_grid: The grid of the weights; None where they are not quantized.
        parts: What each wrapper was for, and what became of it; for the record.
    """

    layer: Any
    weights: list[tuple[str, np.ndarray]]
    masks: list[np.ndarray | None]
    output_range: Range | None = None
    pre_activation_range: Range | None = None
    weight_grid: WeightGrid | None = None
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
    grid = _weight_grid(wrapper)
    return Unwrapped(layer, weights, [None] * len(weights), output, before, grid)


def _weight_grid(wrapper: Any) -> WeightGrid | None:
    found = [entry for entry in wrapper._weight_vars if entry[2]]
    if not found:
        return None
    limits = {}
    for weight, quantizer, ranges in found:
        low, high = np.asarray(ranges["min_var"]), np.asarray(ranges["max_var"])
        symmetric = np.array_equal(low, -high) and bool(getattr(quantizer, "narrow_range", False))
        limits[weight_name(weight)] = high if symmetric else None
    quantizer, ranges = found[0][1:]
    bits, shared = int(getattr(quantizer, "num_bits", 8)), np.size(ranges["min_var"]) == 1
    return WeightGrid(bits, limits, shared)


def _is(layer: Any, names: tuple[str, ...]) -> bool:
    kinds = type(layer).__mro__
    return any(kind.__name__ in names and kind.__module__.startswith(_PACKAGE) for kind in kinds)


def _range(variables: Any) -> Range | None:
    if not variables or "min_var" not in variables:
        return None
    low, high = np.asarray(variables["min_var"]), np.asarray(variables["max_var"])
    return (float(low), float(high)) if low.size == 1 else None

"""Ranges that tfmot learned, in the quantizers of a quantization-aware model."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from tfcompress.graph import Tensor, flatten
from tfcompress.interop.graph_translation import Translation
from tfcompress.interop.tfmot_wrappers import Range
from tfcompress.interop.transfer import Transfer
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import calibrate, quantizers_of, wrappers_of
from tfcompress.quantization.float_boundary import FloatBoundary
from tfcompress.quantization.instrument import quantize_aware
from tfcompress.quantization.placement import Placement, RangeGroup
from tfcompress.quantization.rules.linear import PRE_ACTIVATION
from tfcompress.quantization.schemes import Scheme, SchemeMap


def with_ranges(translation: Translation, transfer: Transfer, calibration: Any) -> keras.Model:
    """Make a rebuilt model quantization-aware, with the ranges that tfmot learned.

    Args:
        translation: The rebuilt model and the ranges.
        transfer: The record to write into.
        calibration: Samples for the quantizers that tfmot had no range for, or None.

    Returns:
        The quantization-aware model.
    """
    qat = quantize_aware(translation.model, _schemes(translation), verbose=False)
    _carry_weight_ranges(translation, qat, transfer)
    graph = flatten(translation.model)
    groups = Placement(graph).groups
    quantizers = _quantizers_by_producer(qat)
    unused = dict(translation.ranges)
    for group in groups:
        quantizer = quantizers.get(_producer(group.members[0].tensor))
        if quantizer is None or group.fixed_range is not None:
            continue
        found = _ranges_in(group, translation.ranges)
        for name in found:
            unused.pop(name, None)
        name = _producer(group.members[0].tensor)
        if found:
            low = min(low for low, _ in found.values())
            high = max(high for _, high in found.values())
            _set(quantizer, low, high)
            note = f"{low:.6g} to {high:.6g}"
            if len(found) > 1:
                note += f", around those of {', '.join(found)}"
            transfer.add(name, "range of the output", True, note)
        elif quantizer.range is None:
            transfer.add(name, "range", False, "tfmot had none here: give `calibration`, or train")
    _carry_inner(translation, qat, transfer)
    if calibration is not None:
        fill_ranges(qat, calibration)
    for name, (low, high) in unused.items():
        note = f"{low:.6g} to {high:.6g}; LiteRT fixes or has no range of its own here"
        transfer.add(name, "range of the output", False, note)
    return qat


def _schemes(translation: Translation) -> SchemeMap:
    """The grids that the weights were trained on: tfmot has one scale for all of a dense layer."""
    return SchemeMap(
        Scheme(arithmetic="float"),
        tuple(
            (
                re.escape(name),
                Scheme(
                    weight_bits=grid.bits,
                    granularity="per_tensor" if grid.shared else "per_channel",
                    weight_range="given",
                    arithmetic="float",
                ),
            )
            for name, grid in translation.weight_grids.items()
        ),
    )


def _carry_weight_ranges(translation: Translation, qat: keras.Model, transfer: Transfer) -> None:
    """The ranges of weights as they are stored: those of their values one training step ago."""
    for wrapper in wrappers_of(qat):
        kernels = [kernel for kernel, _ in wrapper.rule.kernels(wrapper.layer)]
        grid = translation.weight_grids.get(wrapper.name)
        if grid is None:
            if kernels:
                note = "tfmot computes with float weights here, which LiteRT has not: quantized"
                transfer.add(wrapper.name, "float weights", False, note)
            continue
        share = "in all" if grid.shared else "for each output channel"
        words = f"{grid.bits} bits, one scale {share}"
        for name, limits in grid.limits.items():
            # Keras 2 calls that of a depthwise convolution "depthwise_kernel".
            numbers = [i for i, kernel in enumerate(kernels) if name.endswith(kernel.name)]
            if limits is None or not numbers:
                note = f"{words}, from the values: LiteRT has only kernels with symmetric ranges"
                transfer.add(wrapper.name, f"range of {name}", False, note)
                continue
            wrapper.set_weight_limits(numbers[0], _positive(limits))
            transfer.add(wrapper.name, f"range of {name}", True, words)


def _positive(limits: np.ndarray) -> np.ndarray:
    """Ranges of zero width, of channels without weights, as any that represents zeros."""
    return np.where(limits > 0, limits, 1.0)


def fill_ranges(qat: keras.Model, calibration: Any) -> None:
    """Give the quantizers that have no range the one that samples show.

    Args:
        qat: A quantization-aware model.
        calibration: Samples, as `quantize_aware` takes them.
    """
    known = [(q, q.range) for q in quantizers_of(qat) if q.fixed_range is None]
    if all(found is not None for _, found in known):
        return
    calibrate(qat, calibration)
    for quantizer, found in known:
        if found is not None:
            _set(quantizer, *found)


def _carry_inner(translation: Translation, qat: keras.Model, transfer: Transfer) -> None:
    """Ranges between a layer and its activation."""
    wrappers = {wrapper.name: wrapper for wrapper in wrappers_of(qat)}
    for name, (low, high) in translation.inner_ranges.items():
        wrapper = wrappers.get(name)
        inner = None if wrapper is None else wrapper.inner.get(PRE_ACTIVATION)
        carried = inner is not None and inner.fixed_range is None
        if inner is not None and carried:
            _set(inner, low, high)
        note = f"{low:.6g} to {high:.6g}"
        transfer.add(name, "range before the activation", carried, note)
    for name, wrapper in wrappers.items():
        for part, quantizer in wrapper.inner.items():
            if quantizer.range is None:
                note = "tfmot had none here: give `calibration`, or train"
                transfer.add(name, f"range inside: {part}", False, note)


def _ranges_in(group: RangeGroup, ranges: dict[str, Range]) -> dict[str, Range]:
    """The ranges that tfmot had at the tensors of a group."""
    tensors = [member.tensor for member in group.members]
    found = {_producer(tensor): tensor for tensor in [*tensors, *group.followers]}
    return {name: ranges[name] for name in found if name in ranges}


def _quantizers_by_producer(qat: keras.Model) -> dict[str, ActivationQuantizer]:
    """The quantizer of each layer's or input's output, by the name of the layer or input."""
    found: dict[str, ActivationQuantizer] = {}
    for node in flatten(qat).nodes:
        if not isinstance(node.operation, ActivationQuantizer):
            continue
        for tensor in node.inputs:
            while tensor.producer is not None and isinstance(
                tensor.producer.operation, FloatBoundary
            ):
                tensor = tensor.producer.inputs[0]
            found.setdefault(_producer(tensor), node.operation)
    return found


def _producer(tensor: Tensor) -> str:
    return tensor.name if tensor.producer is None else str(tensor.producer.operation.name)


def _set(quantizer: ActivationQuantizer, low: float, high: float) -> None:
    # A range without zero is moved by LiteRT, and by tfmot's own operation, to hold it.
    quantizer.low.assign(min(low, 0.0))
    quantizer.high.assign(max(high, 0.0))
    quantizer.calibrated.assign(1.0)

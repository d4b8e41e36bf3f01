"""`from_tf_keras`: a Keras 2 model as a Keras 3 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from absl import logging

from tfcompress.interop.comparison import first_difference, output_error
from tfcompress.interop.graph_translation import Translation, translate_model
from tfcompress.interop.tfmot_wrappers import is_quantization_wrapper
from tfcompress.interop.transfer import Transfer, attach_transfer, describe_kind
from tfcompress.pruning.state import attach_state
from tfcompress.pruning.targets import PruningTarget, prunable_weights

_TOLERANCE = 1e-5
_HALF_TOLERANCE = 2e-2


def from_tf_keras(
    model: Any,
    keep_ranges: bool = False,
    calibration: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> keras.Model:
    """Rebuild a tf_keras (Keras 2) model as a Keras 3 model with the same weights and outputs.

    Layers become the Keras 3 layers of the same name, with settings renamed where Keras 3 renamed
    them; TensorFlow functions on Keras tensors become Keras operations; nested and shared layers
    stay so. Both models are then run on random inputs, and must agree. The optimizer and the
    compilation are not carried: compile the model again.

    What tensorflow-model-optimization wrapped comes in unwrapped:

    * pruned layers with their masks applied, which later training and `quantize_aware` keep;
    * clustered layers with their centroids as weights;
    * layers in quantization-aware training with their float weights, and on request with the ranges
      that their weights and activations have.

    What came along and what did not is listed by `tfcompress.interop.find_transfer(model)`; losses
    are logged.

    Args:
        model: A built tf_keras model, Sequential or Functional, with or without tfmot's wrappers.
            It stays as it is.
        keep_ranges: Return a quantization-aware model (see `tfcompress.quantize_aware`), whose
            quantizers have the ranges that tfmot learned for the same tensors, and which computes
            what tfmot's computes: weights are clipped to the ranges that are stored with them,
            and biases are not rounded (see `Scheme`). Defaults to False: a float model.
        calibration: With `keep_ranges`, samples for the quantizers that tfmot had no range for.
            Defaults to None.
        custom_objects: Keras 3 layer classes by the names of the Keras 2 classes that they stand
            for; each must take the config of the Keras 2 layer. Defaults to none.
        tolerance: How far the outputs may be from each other, relative to their size. Defaults to
            `1e-5`, or `2e-2` for models that compute in half precision.

    Returns:
        A Keras 3 model, not compiled.

    Raises:
        TypeError: If `model` is no tf_keras model.
        ValueError: If it is subclassed or was never built, a layer has no equal in Keras 3, or the
            outputs differ; the message names the layer.

    Example:

    ```python
    legacy = tf_keras.models.load_model("model.h5")
    model = tfcompress.from_tf_keras(legacy)
    qat = tfcompress.quantize_aware(model, calibration=samples)
    ```
    """
    if not is_tf_keras_model(model):
        raise TypeError(
            f"`from_tf_keras` takes a model of tf_keras (Keras 2). Received: {describe_kind(model)}"
        )
    transfer = Transfer()
    quantized = is_quantized_by_tfmot(model)
    translation = translate_model(model, custom_objects or {}, transfer, keep_ranges and quantized)
    if not quantized:
        transfer.error = _compare(model, translation, tolerance)
    _keep_masks(translation)
    rebuilt = translation.model
    if keep_ranges:
        if not quantized:
            raise ValueError(
                "`keep_ranges` is for models in tfmot's quantization-aware training, made by "
                f"`quantize_model` or `quantize_apply`. Received: '{model.name}', which is not one"
            )
        # The quantization package is only needed here.
        from tfcompress.interop.range_transfer import with_ranges

        rebuilt = with_ranges(translation, transfer, calibration)
    elif quantized:
        learned = {**translation.ranges, **translation.inner_ranges}
        note = "`keep_ranges=True` carries them into a quantization-aware model"
        transfer.add(model.name, f"{len(learned)} activation ranges", False, note)
        transfer.add(model.name, f"{len(translation.weight_grids)} weight ranges", False, note)
    attach_transfer(rebuilt, transfer)
    for row in transfer.lost:
        logging.info("Not carried over: %s: %s (%s)", row.layer, row.part, row.note)
    return rebuilt


def is_tf_keras_model(model: Any) -> bool:
    """Whether something is a model of tf_keras (Keras 2)."""
    return any(
        kind.__name__ == "Model" and kind.__module__.startswith("tf_keras")
        for kind in type(model).__mro__
    )


def is_quantized_by_tfmot(model: Any) -> bool:
    """Whether a tf_keras model is in tfmot's quantization-aware training."""
    return any(map(is_quantization_wrapper, model._flatten_layers()))


def _compare(legacy: Any, translation: Translation, tolerance: float | None) -> float | None:
    if tolerance is None:
        policies = {layer.compute_dtype for layer in legacy._flatten_layers()}
        tolerance = _HALF_TOLERANCE if policies & {"float16", "bfloat16"} else _TOLERANCE
    error = output_error(legacy, translation.model)
    # Not `>`: NaN is a difference, too.
    if error is not None and not error <= tolerance:
        where = first_difference(legacy, translation, tolerance)
        raise ValueError(
            f"The rebuilt model computes something else than '{legacy.name}': outputs differ by "
            f"{error:.1e} of their size, more than the {tolerance:g} allowed. {where} Give "
            "`custom_objects` for the layer, or a higher `tolerance`."
        )
    return error


def _keep_masks(translation: Translation) -> None:
    """Let the zeros of tfmot's masks be the masks of the rebuilt model."""
    if not translation.masks:
        return
    targets, skipped = prunable_weights(translation.model)
    known = {id(target.variable): target for target in targets}
    for entry in skipped:
        if entry.variable is not None:
            known[id(entry.variable)] = PruningTarget(entry.name, entry.layer, entry.variable)
    masks = {id(variable): mask for variable, mask in translation.masks if not mask.all()}
    kept = [target for key, target in known.items() if key in masks]
    state = attach_state(translation.model, kept)
    for target in kept:
        mask = state.mask_for(target.variable)
        if mask is None:
            raise RuntimeError(f"The pruning state has no mask for {target.name}.")
        mask.assign(masks[id(target.variable)])

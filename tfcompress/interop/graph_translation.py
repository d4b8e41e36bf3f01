"""Rebuilding the graph of a Keras 2 model, layer by layer, in Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.graph import keras_internals
from tfcompress.interop import tfmot_wrappers
from tfcompress.interop.layer_translation import (
    CustomObjects,
    UnknownLayerError,
    translate_layer,
)
from tfcompress.interop.operation_translation import call_operation, is_operation
from tfcompress.interop.tfmot_wrappers import Range, Unwrapped, WeightGrid
from tfcompress.interop.transfer import Transfer, describe_kind

Mask = tuple[keras.Variable, np.ndarray]


@dataclass
class Translation:
    """A rebuilt model and what its graph cannot hold.

    Args:
        model: The Keras 3 model, with the weights.
        masks: Pruned weights with their masks, booleans that are False where pruned.
        ranges: Learned range of the output of each layer or input, by its name.
        inner_ranges: Learned range in front of the activation of each layer, by its name.
        weight_grids: How the weights of each layer are quantized, by its name.
        probes: Keras 2 and Keras 3 tensors that should be equal, with the layer that makes them.
    """

    model: Any = None
    masks: list[Mask] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    inner_ranges: dict[str, Range] = field(default_factory=dict)
    weight_grids: dict[str, WeightGrid] = field(default_factory=dict)
    probes: list[tuple[str, Any, Any]] = field(default_factory=list)


def translate_model(
    legacy: Any, custom_objects: CustomObjects, transfer: Transfer, keep_ranges: bool = False
) -> Translation:
    """Rebuild a Keras 2 model.

    Args:
        legacy: A tf_keras model, Sequential or Functional, built.
        custom_objects: Keras 3 classes by the names of the Keras 2 ones.
        transfer: The record to write into.
        keep_ranges: Whether layers are made such that they can have the ranges that tfmot learned.

    Returns:
        The rebuilt model, and what came along.

    Raises:
        ValueError: If the model is subclassed or was never built.
        UnknownLayerError: If a layer has no equal in Keras 3.
    """
    translator = _Translator(custom_objects, transfer, keep_ranges)
    model = translator.rebuild(legacy, outermost=True)
    for layer, unwrapped in translator.pairs:
        translator.copy_weights(layer, unwrapped)
    translator.result.model = model
    return translator.result


class _Translator:
    def __init__(
        self, custom_objects: CustomObjects, transfer: Transfer, keep_ranges: bool
    ) -> None:
        self.result = Translation()
        self.pairs: list[tuple[keras.layers.Layer, Unwrapped]] = []
        self._custom_objects = custom_objects
        self._transfer = transfer
        self._keep_ranges = keep_ranges
        self._layers: dict[int, Any] = {}

    def rebuild(self, legacy: Any, outermost: bool = False) -> keras.Model:
        """The Keras 3 model of a Keras 2 model, nested ones in it too."""
        if not _has_graph(legacy):
            raise ValueError(
                f"The tf_keras model '{legacy.name}' has no graph of layers to rebuild: it is "
                "subclassed, or was never built. Call it on data first if it is Sequential; "
                "`tfcompress.convert` traces any built model as it is. "
                f"Received: {describe_kind(legacy)}"
            )
        inputs = {
            id(tensor): keras.Input(
                batch_shape=tuple(tensor.shape), dtype=tensor.dtype.name, name=name
            )
            for tensor, name in zip(legacy.inputs, legacy.input_names, strict=True)
        }
        if _is_chain(legacy):
            model = self._chain(legacy, next(iter(inputs.values())), outermost)
        else:
            model = self._graph(legacy, inputs, outermost)
        if not legacy.trainable:
            model.trainable = False
        return model

    def _chain(self, legacy: Any, first: keras.KerasTensor, outermost: bool) -> keras.Model:
        made: list[Any] = []
        originals = []
        for layer in legacy.layers:
            if tfmot_wrappers.is_input_quantizer(layer):
                self._note_range(layer, made[-1].name if made else _producer(first))
                continue
            made.append(self._translated(layer))
            originals.append(layer)
        # Not called one by one before: Keras would count such calls when it saves the model.
        model = keras.Sequential([first, *made], name=legacy.name)
        if outermost:
            self.result.probes += [
                (old.name, old.output, new.output) for old, new in zip(originals, made, strict=True)
            ]
        return model

    def _graph(self, legacy: Any, inputs: dict[int, Any], outermost: bool) -> keras.Model:
        values: dict[int, Any] = dict(inputs)
        for depth in sorted(legacy._nodes_by_depth, reverse=True):
            for node in legacy._nodes_by_depth[depth]:
                if not node.is_input:
                    self._run(node, values, outermost)
        return keras.Model(
            _replace(legacy._nested_inputs, values),
            _replace(legacy._nested_outputs, values),
            name=legacy.name,
        )

    def _run(self, node: Any, values: dict[int, Any], outermost: bool) -> None:
        layer = node.layer
        args = _replace(tuple(node.call_args), values)
        given = {name: value for name, value in node.call_kwargs.items() if value is not None}
        kwargs = _replace(given, values)
        outputs = self._call(layer, args, kwargs)
        flat = _flatten(node.outputs)
        for old, new in zip(flat, keras.tree.flatten(outputs), strict=True):
            values[id(old)] = new
            if outermost:
                self.result.probes.append((layer.name, old, new))

    def _call(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_operation(layer):
            return call_operation(layer, args, kwargs)
        if tfmot_wrappers.is_input_quantizer(layer):
            self._note_range(layer, _producer(args[0]))
            return args[0]
        made = self._translated(layer)
        if isinstance(made, keras.layers.RNN | keras.layers.Bidirectional) and isinstance(
            args[0], list
        ):
            # Keras 2 puts initial states beside the sequence.
            sequence, *states = args[0]
            args, kwargs = (sequence,), {**kwargs, "initial_state": states}
            # Keras 3 hands on the mask by itself only where the sequence is the one argument.
            if (mask := keras_internals.mask_of(sequence)) is not None:
                kwargs["mask"] = mask
        try:
            return made(*args, **kwargs)
        except Exception as error:
            raise UnknownLayerError(
                f"The layer '{layer.name}' cannot be called in Keras 3 as it was in Keras 2: "
                f"{error}"
            ) from error

    def _note_range(self, layer: Any, producer: str) -> None:
        found = tfmot_wrappers.input_quantizer_range(layer)
        if found is not None:
            self.result.ranges[producer] = found

    def _translated(self, layer: Any) -> Any:
        if id(layer) not in self._layers:
            self._layers[id(layer)] = self._translate(layer)
        return self._layers[id(layer)]

    def _translate(self, layer: Any) -> Any:
        if hasattr(layer, "_nodes_by_depth") or _is_legacy_model(layer):
            return self.rebuild(layer)
        unwrapped = tfmot_wrappers.unwrap(layer)
        made = translate_layer(unwrapped.layer, self._custom_objects)
        if self._keep_ranges and unwrapped.output_range is not None:
            # The quantization package is only needed here.
            from tfcompress.interop.legacy_pooling import with_own_range

            made = with_own_range(made)
        made.trainable = bool(layer.trainable)
        self.pairs.append((made, unwrapped))
        if unwrapped.output_range is not None:
            self.result.ranges[made.name] = unwrapped.output_range
        if unwrapped.pre_activation_range is not None:
            self.result.inner_ranges[made.name] = unwrapped.pre_activation_range
        if unwrapped.weight_grid is not None:
            self.result.weight_grids[made.name] = unwrapped.weight_grid
        for part, carried, note in unwrapped.parts:
            self._transfer.add(made.name, part, carried, note)
        return made

    def copy_weights(self, layer: keras.layers.Layer, unwrapped: Unwrapped) -> None:
        """Give a rebuilt layer the weights of its original."""
        targets, weights = layer.weights, unwrapped.weights
        names = [name for name, _ in weights]
        order = range(len(weights))
        if sorted(names) == sorted(v.name for v in targets) and len(set(names)) == len(names):
            order = [names.index(variable.name) for variable in targets]  # type: ignore[assignment]
        shapes = [tuple(variable.shape) for variable in targets]
        if [weights[index][1].shape for index in order] != shapes:
            given = [(name, value.shape) for name, value in weights]
            raise UnknownLayerError(
                f"The weights of the layer '{layer.name}' do not fit its Keras 3 form, which has "
                f"{[(v.name, s) for v, s in zip(targets, shapes)]}. Received: {given}"
            )
        for variable, index in zip(targets, order, strict=True):
            variable.assign(weights[index][1])
            mask = unwrapped.masks[index]
            if mask is not None:
                self.result.masks.append((variable, mask.astype(bool)))
        finalize = getattr(layer, "finalize_state", None)
        if finalize is not None and weights:
            finalize()


def _has_graph(legacy: Any) -> bool:
    own_call = not type(legacy).call.__module__.startswith("tf_keras")
    return bool(getattr(legacy, "_is_graph_network", False)) and not own_call


def _is_legacy_model(layer: Any) -> bool:
    return any(
        kind.__name__ == "Model" and kind.__module__.startswith("tf_keras")
        for kind in type(layer).__mro__
    )


def _is_chain(legacy: Any) -> bool:
    return type(legacy).__name__ == "Sequential" and not any(map(is_operation, legacy.layers))


def _producer(tensor: keras.KerasTensor) -> str:
    """Name of the layer or input that makes a symbolic tensor."""
    return str(tensor._keras_history.operation.name)


def _flatten(structure: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(structure))


def _replace(structure: Any, values: Mapping[int, Any]) -> Any:
    """A structure with the Keras 3 tensors in the place of the Keras 2 ones."""
    if id(structure) in values:
        return values[id(structure)]
    if isinstance(structure, Mapping):
        return {key: _replace(value, values) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        kind: Callable[[Any], Any] = tuple if isinstance(structure, tuple) else list
        return kind(_replace(value, values) for value in structure)
    return structure

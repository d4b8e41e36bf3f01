"""Whether a rebuilt model computes what its original computes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.graph.model_inputs import call_flat
from tfcompress.interop.graph_translation import Translation

_BATCH = 2
_OPEN_SIZE = 32


def output_error(legacy: Any, model: keras.Model) -> float | None:
    """Largest difference of the outputs on random inputs, relative to their size.

    Args:
        legacy: A tf_keras model.
        model: The Keras 3 model made from it.

    Returns:
        The difference, or None for inputs that cannot be made up, such as strings.
    """
    import tensorflow as tf

    arrays = _random_inputs(legacy)
    if arrays is None:
        return None
    given = tf.nest.pack_sequence_as(legacy._nested_inputs, arrays)
    expected = tf.nest.flatten(legacy(given, training=False))
    return _largest(expected, keras.tree.flatten(call_flat(model, arrays)))


def first_difference(legacy: Any, translation: Translation, tolerance: float) -> str:
    """Name the first layer whose output differs, for an error message.

    Args:
        legacy: A tf_keras model.
        translation: What was made from it.
        tolerance: From which relative difference on.
    """
    import tensorflow as tf

    arrays = _random_inputs(legacy)
    if arrays is None or not translation.probes:
        return ""
    old = _model_class(legacy)(legacy.inputs, [tensor for _, tensor, _ in translation.probes])
    new = keras.Model(_inputs_of(translation), [tensor for *_, tensor in translation.probes])
    pairs = zip(
        translation.probes,
        tf.nest.flatten(old(arrays, training=False)),
        keras.tree.flatten(new(arrays, training=False)),
        strict=True,
    )
    for (name, *_), expected, seen in pairs:
        error = _largest([expected], [seen])
        if not error <= tolerance:
            return f"The first layer that differs is '{name}', by {error:.1e}."
    return ""


def _inputs_of(translation: Translation) -> list[Any]:
    return list(keras.tree.flatten(translation.model.inputs))


def _model_class(legacy: Any) -> Any:
    """`tf_keras.Model`, which is not imported by name here."""
    return next(
        kind
        for kind in type(legacy).__mro__
        if kind.__name__ == "Model" and kind.__module__.startswith("tf_keras")
    )


def _random_inputs(legacy: Any) -> list[np.ndarray] | None:
    generator = np.random.default_rng(0)
    arrays = []
    for tensor in legacy.inputs:
        sizes = list(tensor.shape)
        shape = [sizes[0] or _BATCH, *(size or _OPEN_SIZE for size in sizes[1:])]
        if tensor.dtype.is_floating:
            arrays.append(generator.normal(size=shape).astype(tensor.dtype.as_numpy_dtype))
        elif tensor.dtype.is_integer:
            values = generator.integers(0, _smallest_table(legacy), shape)
            arrays.append(values.astype(tensor.dtype.as_numpy_dtype))
        else:
            return None
    return arrays


def _smallest_table(legacy: Any) -> int:
    """How many ids every embedding of a model knows."""
    layers = [layer for layer in legacy._flatten_layers() if hasattr(layer, "input_dim")]
    return min([int(layer.input_dim) for layer in layers], default=10)


def _largest(expected: list[Any], seen: list[Any]) -> float:
    errors = [0.0]
    for left, right in zip(expected, seen, strict=True):
        left = np.asarray(left, np.float64)
        right = np.asarray(keras.ops.convert_to_numpy(right), np.float64)
        if left.shape != right.shape:
            return float("inf")
        size = max(1.0, float(np.max(np.abs(left), initial=0.0)))
        errors.append(float(np.max(np.abs(left - right), initial=0.0)) / size)
    return max(errors)

"""The inputs of a Keras model, named, and calling it with them as a flat list."""

from __future__ import annotations

import re
from typing import Any

# Keras counts these names up through the whole process.
_AUTOMATIC = re.compile(r"(keras_tensor|input_layer)(_\d+)?")


def model_inputs(model: Any) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Return `(name, shape with batch, dtype)` of each input of a built Keras model.

    Names are what the exported file's signature will use: those that the inputs were given, or
    `input`, `input_1`, …, with anything but letters, digits and underscores replaced. They stay
    the same when the model is saved and loaded.

    Args:
        model: A Keras model. A subclassed one must have been called or built.

    Raises:
        ValueError: If the model was never built, so that its input shapes are unknown.
    """
    found: list[tuple[str, tuple[int | None, ...], str]] = []
    inputs = getattr(model, "inputs", None)
    if inputs:
        found += [(tensor.name, tuple(tensor.shape), str(tensor.dtype)) for tensor in inputs]
    else:
        config = (model.get_build_config() if model.built else None) or {}
        shapes = config.get("shapes_dict") or {"inputs": config.get("input_shape")}
        if len(shapes) == 1 and _is_shape(shape := next(iter(shapes.values()))):
            # The batch is that of whatever the model was first called on.
            found.append(("input", (None, *shape[1:]), str(model.input_dtype)))
    if not found:
        raise ValueError(
            "The model was never built, so the shape of its input is unknown. Call it once on "
            "a batch, give its first layer an `Input(shape)`, or make it a functional model. "
            f"Received: {model.name} ({type(model).__name__})"
        )
    taken: set[str] = set()
    named = []
    for name, shape, dtype in found:
        base = "input" if _AUTOMATIC.fullmatch(name) else re.sub(r"\W", "_", name)
        base = f"input_{base}" if not base or base[0].isdigit() else base
        unique, count = base, 1
        while unique in taken:
            unique, count = f"{base}_{count}", count + 1
        taken.add(unique)
        named.append((unique, shape, dtype))
    return named


def sample_specs(model: Any) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Return `(name, shape without batch, dtype)` of each input; see `model_inputs`.

    As `calibration_samples` takes them.
    """
    return [(name, shape[1:], dtype) for name, shape, dtype in model_inputs(model)]


def call_flat(model: Any, tensors: list[Any]) -> Any:
    """Call a model in inference mode with its inputs in the order of `model_inputs`."""
    import keras

    if len(tensors) == 1 and (
        not getattr(model, "inputs", None) or isinstance(model, keras.Sequential)
    ):
        return model(tensors[0], training=False)
    # `Functional.input` is the structure (tensor, list or dictionary) the model was made with.
    return model(keras.tree.pack_sequence_as(model.input, tensors), training=False)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        size is None or isinstance(size, int) for size in value
    )

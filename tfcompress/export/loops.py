"""Recurrent layers without loops, which the converter cannot quantize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tfcompress.export.model_functions import ModelFunction


def unrolled(function: ModelFunction) -> tuple[ModelFunction, list[str]]:
    """Let the recurrent layers of a Keras model be traced step by step.

    Args:
        function: What a model computes; the number of steps must be fixed where it is traced. A
            model that is no Keras model stays as it is.

    Returns:
        The same function without loops, of the same weights, and the names of the layers that have
        a loop otherwise.
    """
    import keras

    from tfcompress.graph import keras_internals

    if not isinstance(function.owner, keras.Model):
        return function, []
    layers = [
        layer
        for layer in keras_internals.flat_sublayers(function.owner)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]

    def run(**tensors: Any) -> Any:
        # Not around the whole export, which also traces the model for an open number of steps.
        with _without_loops(layers):
            return function.run(**tensors)

    return replace(function, run=run), [layer.name for layer in layers]


@contextmanager
def _without_loops(layers: Sequence[Any]) -> Iterator[None]:
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def describe_unrolled(names: Sequence[str]) -> list[str]:
    """Sentences on what was unrolled, for the artifact.

    Args:
        names: Names of the layers.
    """
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [
        f"Unrolled into single steps, since the converter cannot quantize a loop: {shown}. The "
        "steps share their weights."
    ]

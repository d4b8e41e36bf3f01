"""The only place that touches what Keras does not promise to keep.

Topology has no public reading API in Keras 3: a layer's inbound nodes mix every model that ever
called it, so a model's own nodes must come from the model. Everything here is covered by tests that
fail when Keras changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
from keras.src import backend as keras_backend
from keras.src.models.functional import Functional

# Not exported by Keras, but the only way to have an object saved with a model that is no layer: a
# layer would change the model's weights, summary and file, and plain Keras could not load it.
from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable


@dataclass(frozen=True)
class Call:
    """One call of an operation as Keras recorded it.

    Attributes:
        operation: The layer or `keras.Operation` that was called.
        args: Positional arguments, `KerasTensor`s among them.
        kwargs: Keyword arguments.
        outputs: Flat list of the `KerasTensor`s that came out.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]


def calls_of(model: keras.Model) -> Iterator[Call]:
    """Yield the calls recorded in a Functional model, producers before their consumers."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                yield Call(
                    node.operation,
                    tuple(node.arguments.args),
                    dict(node.arguments.kwargs),
                    list(node.outputs),
                )


def output_structure_of(model: keras.Model) -> Any:
    """The (possibly nested) structure of `KerasTensor`s that a Functional model returns."""
    return model._outputs_struct


def input_structure_of(model: keras.Model) -> Any:
    """The (possibly nested) structure of `KerasTensor`s that a Functional model takes."""
    return model._inputs_struct


def functional_of(model: keras.Model) -> keras.Model | None:
    """The Functional graph behind `model`, or None when it has none (a subclassed model)."""
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    # A Functional subclass that overrides `call` does something else than its graph says.
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def flat_sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """`layer` and all layers inside it, each once."""
    return list(dict.fromkeys(layer._flatten_layers(include_self=True, recursive=True)))


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside a layer or model."""
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    return list(inner)


def training_state_extras(model: keras.Model) -> list[Any]:
    """A list whose members' `state` variables are part of the model's compiled training state.

    Keras keeps seed generators there. They are in no weights, layers or files, which makes it the
    place for variables that a compiled JAX step must see change.
    """
    extras: list[Any] = model._seed_generators
    return extras


def without_autocast() -> AbstractContextManager[Any]:
    """A scope in which float32 variables are read as they are, also under a mixed policy."""
    scope: AbstractContextManager[Any] = keras_backend.AutocastScope(None)
    return scope

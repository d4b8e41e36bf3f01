"""What others add to the training of a model object: wrappers of its step, and state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from tfcompress.graph.keras_internals import training_state_extras

# Takes the step that it wraps and that step's arguments, and returns what the step returns.
Wrapper = Callable[..., Any]

_ATTRIBUTE = "_tfcompress_step"


class _WrappedStep:
    """A training step inside wrappers, of which the last one is the outermost."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step
        self.wrappers: list[Wrapper] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.step
        for wrapper in self.wrappers:
            step = partial(wrapper, step)
        return step(*args, **kwargs)


def step_wrappers(model: keras.Model) -> tuple[Wrapper, ...]:
    """What the training step of a model is wrapped in, from the inside out."""
    wrapped = model.__dict__.get(_ATTRIBUTE)
    return () if wrapped is None else tuple(wrapped.wrappers)


def wrap_step(model: keras.Model, wrapper: Wrapper) -> None:
    """Wrap the training step of a model. Functions traced before must be made anew.

    Args:
        model: The model. Its class, and other models of it, stay as they are.
        wrapper: Called with the step and the step's arguments.
    """
    wrapped = model.__dict__.get(_ATTRIBUTE)
    if wrapped is None:
        wrapped = _WrappedStep(model.train_step)
        # Not by setattr: Keras looks into what a model is given.
        object.__setattr__(model, _ATTRIBUTE, wrapped)
        object.__setattr__(model, "train_step", wrapped)
    wrapped.wrappers.append(wrapper)


def unwrap_step(model: keras.Model, wrapper: Wrapper) -> None:
    """Take a wrapper away; with the last one the model has its own training step back."""
    wrapped = model.__dict__.get(_ATTRIBUTE)
    if wrapped is None or wrapper not in wrapped.wrappers:
        return
    wrapped.wrappers.remove(wrapper)
    if wrapped.wrappers:
        return
    object.__delattr__(model, _ATTRIBUTE)
    if model.__dict__.get("train_step") is not wrapped:
        return  # replaced by others meanwhile, who may call it
    if getattr(wrapped.step, "__func__", None) is type(model).train_step:
        object.__delattr__(model, "train_step")
    else:
        object.__setattr__(model, "train_step", wrapped.step)


@dataclass(frozen=True, eq=False)
class _TrainingState:
    """Looks to a model like a seed generator, whose `state` is part of the training state."""

    state: keras.Variable
    owner: type


def add_training_state(
    model: keras.Model, owner: type, variables: Iterable[keras.Variable]
) -> None:
    """Make variables inputs and outputs of the compiled step, as JAX needs.

    JAX must not have a step's results pending then: read the model through `Callback.model` first.

    Args:
        model: The model. Its weights and files stay as they are.
        owner: By what they are removed again.
        variables: The variables.
    """
    training_state_extras(model).extend(_TrainingState(variable, owner) for variable in variables)


def remove_training_state(model: keras.Model, owner: type) -> None:
    """Take away what `add_training_state` added for this owner."""
    extras = training_state_extras(model)
    rest = [e for e in extras if not (isinstance(e, _TrainingState) and e.owner is owner)]
    if len(rest) < len(extras):
        extras[:] = rest

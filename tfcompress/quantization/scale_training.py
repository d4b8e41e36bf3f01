"""Training learned scales and ranges in a `fit` of the float model, whose optimizer has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.pruning.gradients import loss_scale
from tfcompress.training_step import (
    Wrapper,
    add_training_state,
    remove_training_state,
    step_wrappers,
    unwrap_step,
    wrap_step,
)

_LOSS_SCALE = keras.optimizers.LossScaleOptimizer


class ScaleTraining:
    """Trains variables that a model has not got along with the model, by a second optimizer.

    The variables stay outside of the model: its weights, files and optimizer are what they were.
    They count as trainable only while the model's own training step runs, custom or not, so that it
    takes their gradients; those are kept from the model's optimizer and given to one of the same
    kind and settings, which follows its learning rate.

    Args:
        model: A compiled model.
        variables: The variables, such as the growth of a learned scale.

    Attributes:
        optimizer: The second optimizer.
    """

    def __init__(self, model: keras.Model, variables: Sequence[keras.Variable]) -> None:
        self.model = model
        self.variables = list(variables)
        strategy = getattr(model, "distribute_strategy", None)
        with nullcontext() if strategy is None else strategy.scope():
            self.optimizer = _like(_innermost(model.optimizer))
            self.optimizer.build(self.variables)
        self._on_jax = keras.backend.backend() == "jax"
        self._wrapper: Wrapper = self._stateless if self._on_jax else self._stateful

    def install(self) -> None:
        """Wrap the training step of the model object. Functions traced before must be made anew."""
        if self._on_jax:
            add_training_state(self.model, ScaleTraining, self.optimizer.variables)
        wrap_step(self.model, self._wrapper)

    def remove(self) -> None:
        """Take this out of the model's training step."""
        unwrap_step(self.model, self._wrapper)
        remove_training_state(self.model, ScaleTraining)

    @staticmethod
    def remove_leftovers(model: keras.Model) -> None:
        """Undo what trainings of a model that were interrupted left behind."""
        for wrapper in step_wrappers(model):
            owner = getattr(wrapper, "__self__", None)
            if isinstance(owner, ScaleTraining):
                owner.remove()

    def _stateful(self, step: Callable[..., Any], *args: Any) -> Any:
        """A step that assigns variables (TensorFlow, PyTorch)."""
        own = keras_internals.own_trainable_variables(self.model)
        before = list(own)
        for variable in self.variables:
            if getattr(variable.value, "grad", None) is not None:
                variable.value.grad = None  # PyTorch adds to what is there
        own.extend(self.variables)
        try:
            with _replaced(self.model.optimizer, "apply", self._apply):
                return step(*args)
        finally:
            own[:] = before

    def _apply(self, apply: Any, grads: Any, trainable_variables: Any) -> Any:
        learned = set(map(id, self.variables))
        pairs = list(zip(grads, trainable_variables, strict=True))
        rest = [(gradient, v) for gradient, v in pairs if id(v) not in learned]
        mine = [(g, v) for g, v in pairs if id(v) in learned and g is not None]
        scale = loss_scale(self.model.optimizer)
        result = apply([gradient for gradient, _ in rest], [v for _, v in rest])
        if mine:
            self.optimizer.learning_rate = _innermost(self.model.optimizer).learning_rate
            self.optimizer.apply(
                [self._unscaled(gradient, scale) for gradient, _ in mine], [v for _, v in mine]
            )
        return result

    def _unscaled(self, gradient: Any, scale: Any) -> Any:
        if scale is None or not isinstance(self.model.optimizer, _LOSS_SCALE):
            return gradient
        gradient = ops.cast(gradient, "float32") / ops.cast(scale, "float32")
        # A loss that is scaled too far overflows now and then.
        return ops.where(ops.isfinite(gradient), gradient, 0.0)

    def _stateless(self, step: Callable[..., Any], state: Any, data: Any) -> Any:
        """A step from state to state (JAX), which holds the second optimizer's state too."""
        places = {id(v): index for index, v in enumerate(self.model.non_trainable_variables)}
        places = {number: places[id(v)] for number, v in enumerate(self.optimizer.variables)}
        before = [state[1][place] for place in places.values()]
        after: list[Any] = []

        def stateless_apply(apply: Any, optimizer_values: Any, grads: Any, values: Any) -> Any:
            index = {id(v): i for i, v in enumerate(self.model.trainable_variables)}
            mine = [index[id(v)] for v in self.variables]
            rest = [i for i in range(len(values)) if i not in set(mine)]
            known = {id(v): x for v, x in zip(self.model.optimizer.variables, optimizer_values)}
            scale = loss_scale(self.model.optimizer, known)
            rate = self._learning_rate(optimizer_values)
            moved, optimizer_values = apply(
                optimizer_values, [grads[i] for i in rest], [values[i] for i in rest]
            )
            given = [
                ops.cast(rate, "float32") if v is self.optimizer.learning_rate else x
                for v, x in zip(self.optimizer.variables, before, strict=True)
            ]
            gradients = [self._unscaled(grads[i], scale) for i in mine]
            learned, after[:] = self.optimizer.stateless_apply(
                given, gradients, [values[i] for i in mine]
            )
            values = list(values)
            for i, value in zip([*rest, *mine], [*moved, *learned], strict=True):
                values[i] = value
            return values, optimizer_values

        with _replaced(self.model.optimizer, "stateless_apply", stateless_apply):
            logs, (trainable, non_trainable, *others) = step(state, data)
        non_trainable = list(non_trainable)
        for place, value in zip(places.values(), after, strict=True):
            non_trainable[place] = value
        return logs, (trainable, non_trainable, *others)

    def _learning_rate(self, optimizer_values: Sequence[Any]) -> Any:
        pairs = list(zip(self.model.optimizer.variables, optimizer_values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return ops.convert_to_tensor(_innermost(self.model.optimizer).learning_rate)


def _innermost(optimizer: Any) -> Any:
    return optimizer.inner_optimizer if isinstance(optimizer, _LOSS_SCALE) else optimizer


def _like(optimizer: Any) -> Any:
    """An optimizer of the same settings. Averages of its variables would be used by nobody."""
    config = {**optimizer.get_config(), "name": f"{optimizer.name}_scales", "use_ema": False}
    config["learning_rate"] = float(ops.convert_to_numpy(optimizer.learning_rate))
    return type(optimizer).from_config(config)


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of an object inside the block by `function(method, ...)`."""
    original, was_set = getattr(owner, name), name in owner.__dict__

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    # Not by setattr: Keras tracks what an optimizer is given.
    object.__setattr__(owner, name, replacement)
    try:
        yield
    finally:
        if was_set:
            object.__setattr__(owner, name, original)
        else:
            object.__delattr__(owner, name)

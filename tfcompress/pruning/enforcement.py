"""Making the optimizer step itself keep pruned weights at zero.

A mask that is applied after the batch leaves the step's own result dense, which validation within
several steps per execution, checkpoints and early stops then see. TensorFlow and PyTorch run a
variable's `constraint` inside the optimizer step. JAX compiles a constraint's mask in as a
constant, so there the masks travel in the training state instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from tfcompress.pruning.gradients import (
    Accumulate,
    after_step,
    captured_gradients,
    forget_gradients,
    record_gradients,
)
from tfcompress.pruning.weight_mask import Mask
from tfcompress.training_step import (
    Wrapper,
    add_training_state,
    remove_training_state,
    step_wrappers,
    unwrap_step,
    wrap_step,
)


class MaskConstraint(keras.constraints.Constraint):
    """Zero what a mask prunes, after the constraint that the user gave the weight.

    Args:
        mask: The mask.
        inner: The user's own constraint, if any.
    """

    def __init__(self, mask: Mask, inner: Callable[[Any], Any] | None = None) -> None:
        self.mask = mask
        self.inner = inner

    def __call__(self, w: Any) -> Any:
        """The constrained weight.

        Args:
            w: The weight after the optimizer's update, of the mask's shape.

        Returns:
            Tensor of the same shape and dtype.
        """
        mask = self.mask
        weight = w if self.inner is None else self.inner(w)
        # TensorFlow hands a constraint the Keras variable itself.
        weight = weight.value if isinstance(weight, keras.Variable) else weight
        if mask.dense is not None:
            mask.dense.assign(mask.trained_along(weight, mask.value.value, mask.dense.value))
        return mask.masked(weight)


class Enforcement(ABC):
    """Keeps the pruned weights of a model at zero while it trains."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @abstractmethod
    def install(self, masks: Sequence[Mask], accumulate: Accumulate | None = None) -> None:
        """Enforce masks from the next training step on. May be called again.

        Args:
            masks: The masks.
            accumulate: What each step adds to the evidence of those that have a place for it.
                Defaults to None: nothing.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Take over the present values of the masks."""

    @abstractmethod
    def remove(self) -> None:
        """Leave the model as it was. Also undoes what an interrupted training left behind."""

    def _rebuild_step(self) -> None:
        # Setting `train_function` to None would crash a `fit` that has already made it.
        if self.model.compiled:
            self.model.make_train_function(force=True)


class ConstraintEnforcement(Enforcement):
    """Enforcement by the `constraint` of each variable (TensorFlow, PyTorch)."""

    def install(self, masks: Sequence[Mask], accumulate: Accumulate | None = None) -> None:
        """Chain each mask to the weight's constraint."""
        if accumulate is not None:
            record_gradients(built_optimizer(self.model), masks, accumulate)
        for mask in masks:
            inner = mask.variable.constraint
            if isinstance(inner, MaskConstraint):
                if inner.mask is mask:
                    continue
                inner = inner.inner
            mask.variable.constraint = MaskConstraint(mask, inner)
        self._rebuild_step()

    def refresh(self) -> None:
        """Nothing to do: the constraints read the masks' own variables."""

    def remove(self) -> None:
        """Give every weight its own constraint back."""
        chained = [v for v in self.model.weights if isinstance(v.constraint, MaskConstraint)]
        for variable in chained:
            variable.constraint = variable.constraint.inner
        forget_gradients(getattr(self.model, "optimizer", None))
        if chained:
            self._rebuild_step()


class TrainingStateEnforcement(Enforcement):
    """Enforcement in the compiled training step (JAX).

    While it trains the model has copies of the masks among its non-trainable variables, so that
    they are inputs of the compiled step and not constants in it.
    """

    def install(self, masks: Sequence[Mask], accumulate: Accumulate | None = None) -> None:
        """Wrap the training step of this model object."""
        self.remove()
        model = self.model
        self._masks = list(masks)
        self._accumulate = accumulate
        self._gathering = gathering = [
            mask for mask in masks if accumulate is not None and mask.evidence is not None
        ]
        if gathering:
            built_optimizer(model)
        self._copies = [
            keras.Variable(mask.numpy(), trainable=False, dtype="bool", name="pruning_mask")
            for mask in masks
        ]
        kept = [
            *self._copies,
            *(mask.evidence for mask in gathering if mask.evidence is not None),
            *(mask.dense for mask in masks if mask.dense is not None),
        ]
        add_training_state(model, TrainingStateEnforcement, kept)
        wrap_step(model, self._masked_step)
        self._rebuild_step()

    def _masked_step(self, step: Callable[..., Any], state: Any, data: Any) -> Any:
        """A training step from state to state that keeps the masks and the evidence."""
        model, accumulate = self.model, self._accumulate
        caught: AbstractContextManager[dict[int, Any]] = nullcontext({})
        if self._gathering:
            caught = captured_gradients(model.optimizer)
        with caught as steps:
            logs, new_state = step(state, data)
        trainable, non_trainable, *others = new_state
        trainable, non_trainable = list(trainable), list(non_trainable)
        weights = {id(v): index for index, v in enumerate(model.trainable_variables)}
        values = {id(v): index for index, v in enumerate(model.non_trainable_variables)}
        for mask in self._gathering:
            place = values[id(mask.evidence)]
            moved = steps.get(id(mask.variable))
            if accumulate is not None:
                non_trainable[place] = after_step(accumulate, non_trainable[place], moved)
        for mask, copy in zip(self._masks, self._copies):
            index = weights.get(id(mask.variable))
            if index is None:
                # Frozen since it was pruned: no step touches it.
                continue
            keep = non_trainable[values[id(copy)]]
            weight = trainable[index]
            if mask.dense is not None:
                place = values[id(mask.dense)]
                non_trainable[place] = mask.trained_along(weight, keep, non_trainable[place])
            trainable[index] = ops.where(keep, weight, ops.zeros((), dtype=weight.dtype))
        return logs, (trainable, non_trainable, *others)

    def refresh(self) -> None:
        """Copy the masks into the training state."""
        for mask, copy in zip(self._masks, self._copies):
            # The compiled step takes over, and frees, the buffers of its inputs.
            copy.assign(ops.copy(mask.value.value))

    def remove(self) -> None:
        """Take the masks out of the model's training step."""
        wrappers = _masking(self.model)
        for wrapper in wrappers:
            unwrap_step(self.model, wrapper)
        if wrappers:
            remove_training_state(self.model, TrainingStateEnforcement)
            self._rebuild_step()


def _masking(model: keras.Model) -> list[Wrapper]:
    """The wrappers of a model's training step that enforce masks, also of earlier objects."""
    return [
        wrapper
        for wrapper in step_wrappers(model)
        if isinstance(getattr(wrapper, "__self__", None), TrainingStateEnforcement)
    ]


def built_optimizer(model: keras.Model) -> Any:
    """The optimizer of a model, built, so that what it keeps exists before a step is traced."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            f"The model {model.name!r} has no optimizer whose gradients could be read. Compile it, "
            "or prune it by a criterion without gradients, such as 'magnitude'."
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return optimizer


def is_enforced(model: keras.Model) -> bool:
    """Whether the masks of a model are enforced at present."""
    if _masking(model):
        return True
    return any(isinstance(variable.constraint, MaskConstraint) for variable in model.weights)


def enforcement_for(model: keras.Model) -> Enforcement:
    """The enforcement that works on the present Keras backend.

    Args:
        model: The model that is going to train.

    Returns:
        An enforcement that is not installed yet.
    """
    if keras.backend.backend() == "jax":
        return TrainingStateEnforcement(model)
    return ConstraintEnforcement(model)

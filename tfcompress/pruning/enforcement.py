"""Making the optimizer step itself keep pruned weights at zero.

A mask that is applied after the batch leaves the step's own result dense, which validation within
several steps per execution, checkpoints and early stops then see. TensorFlow and PyTorch run a
variable's `constraint` inside the optimizer step. JAX compiles a constraint's mask in as a
constant, so there the masks travel in the training state instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfcompress.graph import keras_internals
from tfcompress.pruning.state import Mask

_ORIGINAL_STEP = "_tfcompress_original_step"


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
        return self.mask.masked(w if self.inner is None else self.inner(w))


class Enforcement(ABC):
    """Keeps the pruned weights of a model at zero while it trains."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @abstractmethod
    def install(self, masks: Sequence[Mask]) -> None:
        """Enforce these masks from the next training step on. May be called again."""

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

    def install(self, masks: Sequence[Mask]) -> None:
        """Chain each mask to the weight's constraint."""
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
        if chained:
            self._rebuild_step()


class TrainingStateEnforcement(Enforcement):
    """Enforcement in the compiled training step (JAX).

    While it trains the model has copies of the masks among its non-trainable variables, so that
    they are inputs of the compiled step and not constants in it.
    """

    def install(self, masks: Sequence[Mask]) -> None:
        """Wrap the training step of this model object."""
        self.remove()
        model = self.model
        self._masks = list(masks)
        self._copies = [
            keras.Variable(mask.numpy(), trainable=False, dtype="bool", name="pruning_mask")
            for mask in masks
        ]
        keras_internals.training_state_extras(model).extend(map(_MaskCopy, self._copies))
        original = model.train_step
        object.__setattr__(model, _ORIGINAL_STEP, original)

        def train_step(state: Any, data: Any) -> Any:
            logs, new_state = original(state, data)
            trainable, non_trainable, *others = new_state
            trainable = list(trainable)
            weights = {id(v): index for index, v in enumerate(model.trainable_variables)}
            values = {id(v): index for index, v in enumerate(model.non_trainable_variables)}
            for mask, copy in zip(self._masks, self._copies):
                index = weights.get(id(mask.variable))
                if index is None:
                    # Frozen since it was pruned: no step touches it.
                    continue
                keep = non_trainable[values[id(copy)]]
                weight = trainable[index]
                trainable[index] = ops.where(keep, weight, ops.zeros((), dtype=weight.dtype))
            return logs, (trainable, non_trainable, *others)

        model.train_step = train_step
        self._rebuild_step()

    def refresh(self) -> None:
        """Copy the masks into the training state."""
        for mask, copy in zip(self._masks, self._copies):
            # The compiled step takes over, and frees, the buffers of its inputs.
            copy.assign(ops.copy(mask.value.value))

    def remove(self) -> None:
        """Give the model its own training step back."""
        model = self.model
        if _ORIGINAL_STEP not in model.__dict__:
            return
        original = model.__dict__[_ORIGINAL_STEP]
        object.__delattr__(model, _ORIGINAL_STEP)
        if getattr(original, "__func__", None) is type(model).train_step:
            object.__delattr__(model, "train_step")
        else:
            model.train_step = original
        extras = keras_internals.training_state_extras(model)
        extras[:] = [extra for extra in extras if not isinstance(extra, _MaskCopy)]
        self._rebuild_step()


@dataclass(frozen=True, eq=False)
class _MaskCopy:
    """Looks to a model like a seed generator, whose `state` is part of the training state."""

    state: keras.Variable


def is_enforced(model: keras.Model) -> bool:
    """Whether the masks of a model are enforced at present."""
    if _ORIGINAL_STEP in model.__dict__:
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

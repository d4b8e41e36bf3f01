"""Reading the gradients of a training step, as its optimizer gets them.

A criterion that needs gradients would cost a second backward pass if it computed them. Keras offers
no hook between gradients and update, but every training step, own ones too, hands its gradients to
the optimizer: a function of the optimizer object is replaced while the model is pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tfcompress.pruning.weight_mask import Mask

# From evidence, weight and gradient, all float32, to the new evidence.
Accumulate = Callable[[Any, Any, Any], Any]

_RECORDED = "_tfcompress_apply"


def record_gradients(optimizer: Any, masks: Sequence[Mask], accumulate: Accumulate) -> None:
    """Let an optimizer's `apply` add to the evidence of masks first (TensorFlow, PyTorch).

    Args:
        optimizer: The model's optimizer. It is built if it is not yet.
        masks: Masks that have a place for evidence.
        accumulate: What a step adds.
    """
    forget_gradients(optimizer)
    by_variable = {id(mask.variable): mask for mask in masks if mask.evidence is not None}
    original = optimizer.apply

    def apply(grads: Any, trainable_variables: Any = None) -> Any:
        variables = optimizer._trainable_variables
        if trainable_variables is not None:
            variables = list(trainable_variables)
        grads = list(grads)
        scale = loss_scale(optimizer)
        for gradient, variable in zip(grads, variables):
            mask = by_variable.get(id(variable))
            if mask is not None and mask.evidence is not None and gradient is not None:
                mask.evidence.assign(
                    _accumulated(accumulate, mask.evidence.value, variable.value, gradient, scale)
                )
        return original(grads, trainable_variables)

    object.__setattr__(optimizer, _RECORDED, original)
    object.__setattr__(optimizer, "apply", apply)


def forget_gradients(optimizer: Any) -> None:
    """Give an optimizer its own `apply` back."""
    if optimizer is not None and _RECORDED in optimizer.__dict__:
        object.__delattr__(optimizer, _RECORDED)
        object.__delattr__(optimizer, "apply")


@contextmanager
def captured_gradients(optimizer: Any) -> Iterator[dict[int, tuple[Any, Any, Any]]]:
    """Catch what an optimizer's `stateless_apply` is called with inside the block (JAX).

    Yields:
        Weight, gradient and the factor in the gradient, by `id(variable)`; filled when the call
        has happened. They belong to the trace of the training step that the block is part of.
    """
    found: dict[int, tuple[Any, Any, Any]] = {}
    original = optimizer.stateless_apply

    def stateless_apply(optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
        if len(grads) != len(optimizer._trainable_variables):
            raise ValueError(
                "On JAX a criterion that needs gradients does not go together with learned "
                "scales while both are in training. Take another criterion or another scheme. "
                f"Received: {len(grads)} gradients for an optimizer of "
                f"{len(optimizer._trainable_variables)} variables"
            )
        values = {id(v): value for v, value in zip(optimizer.variables, optimizer_variables)}
        scale = loss_scale(optimizer, values)
        for variable, weight, gradient in zip(
            optimizer._trainable_variables, trainable_variables, grads
        ):
            found[id(variable)] = (weight, gradient, scale)
        return original(optimizer_variables, grads, trainable_variables)

    object.__setattr__(optimizer, "stateless_apply", stateless_apply)
    try:
        yield found
    finally:
        object.__delattr__(optimizer, "stateless_apply")


def after_step(accumulate: Accumulate, evidence: Any, step: tuple[Any, Any, Any] | None) -> Any:
    """The evidence after a step that `captured_gradients` caught."""
    if step is None or step[1] is None:
        return evidence
    return _accumulated(accumulate, evidence, *step)


def _accumulated(
    accumulate: Accumulate, evidence: Any, weight: Any, gradient: Any, scale: Any
) -> Any:
    # Sparse gradients of embeddings become dense here.
    gradient = ops.cast(ops.convert_to_tensor(gradient), "float32")
    if scale is not None:
        gradient = gradient / ops.cast(scale, "float32")
    new = accumulate(evidence, ops.cast(weight, "float32"), gradient)
    # A loss that is scaled too far overflows now and then; the optimizer skips such a step.
    return ops.where(ops.isfinite(new), new, evidence)


def loss_scale(optimizer: Any, values: dict[int, Any] | None = None) -> Any:
    """What an optimizer's gradients were multiplied with; None if with nothing.

    Args:
        optimizer: The optimizer.
        values: By `id(variable)`, values to take for those of its variables. Defaults to None.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        variable = optimizer.dynamic_scale
        return variable.value if values is None else values[id(variable)]
    return optimizer.loss_scale_factor

"""The moving averages of weights that optimizers keep (`use_ema=True`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.pruning.weight_mask import Mask


def mask_averages(optimizer: Any, masks: list[Mask]) -> None:
    """Zero the pruned entries of the optimizer's averages of the masked weights.

    The optimizer averages what its step made of a weight before the constraint zeroes it, so the
    average of a pruned weight is not zero; Keras copies it into the model after the last epoch,
    and the `SwapEMAWeights` callback for each validation.

    Args:
        optimizer: The model's optimizer, or None.
        masks: The masks.
    """
    by_variable = {id(mask.variable): mask for mask in masks if mask.pruned}
    for variable, average in _averages(optimizer):
        mask = by_variable.get(id(variable))
        if mask is not None:
            average.assign(mask.masked(average.value))


def keeps_averages(optimizer: Any) -> bool:
    """Whether the optimizer, or one inside it, averages the weights."""
    return any(getattr(inner, "use_ema", False) for inner in _innermost(optimizer))


def _averages(optimizer: Any) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    for inner in _innermost(optimizer):
        # Private: Keras offers no way to read the averages; `SwapEMAWeights` does the same.
        if getattr(inner, "use_ema", False) and inner.built:
            yield from zip(inner._trainable_variables, inner._model_variables_moving_average)


def _innermost(optimizer: Any) -> Iterator[Any]:
    if hasattr(optimizer, "inner_optimizer"):
        yield from _innermost(optimizer.inner_optimizer)
    elif hasattr(optimizer, "optimizers"):
        for inner in optimizer.optimizers:
            yield from _innermost(inner)
    elif optimizer is not None:
        yield optimizer

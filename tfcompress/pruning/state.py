"""The masks and the step counter of a model that is being, or has been, pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph.keras_internals import KerasSaveable
from tfcompress.pruning.targets import PruningTarget, every_weight
from tfcompress.pruning.weight_mask import TRAINING_VALUES, Mask

_ATTRIBUTE = "_tfcompress_pruning"
# Stands in its place where a user said that the weights are dense.
_DENSE = "dense"


class PruningState(KerasSaveable):
    """Masks and step counter of a pruned model, saved and restored together with its weights.

    It hangs on the model, which saves it in `.keras` and `.weights.h5` files beside the weights:
    such files still load in plain Keras, which ignores the addition. It is no layer: the model's
    weights, layers and summary stay what they were.

    Attributes:
        step: Number of training steps that the pruning schedule has seen.
        last_update: Step of the last update of the masks; -1 before the first.
        begin: Step at which pruning began; -1 before that is settled.
        masks: One `Mask` a weight, in the order of the model's weights.
        restored: Whether this state was read from a file since the flag was last cleared.
        callback: The callback that advances the masks in the training that runs; else None.
        reads_zeros: Whether a weight that holds zeros may be taken for pruned.
    """

    def __init__(self, model: keras.Model, reads_zeros: bool = True) -> None:
        self.reads_zeros = reads_zeros
        self.step = 0
        self.last_update = -1
        self.begin = -1
        self.restored = False
        self.callback: keras.callbacks.Callback | None = None
        self._masks: dict[int, Mask] = {}
        # The position among the model's weights names a mask in a file: unlike the names of
        # layers it is the same in every process that builds the model.
        self._variables: tuple[keras.Variable, ...] = tuple(model.weights)
        self._targets = every_weight(model)
        self._strategy = getattr(model, "distribute_strategy", None)

    @property
    def masks(self) -> list[Mask]:
        """One `Mask` a weight, in the order of the model's weights."""
        return [self._masks[id(v)] for v in self._variables if id(v) in self._masks]

    @property
    def sparsity(self) -> float:
        """Share of pruned entries in all masked weights; 0 without masks."""
        size = sum(mask.size for mask in self.masks)
        return sum(mask.pruned for mask in self.masks) / size if size else 0.0

    def mask_for(self, variable: keras.Variable) -> Mask | None:
        """The mask of a weight; None if it has none."""
        return self._masks.get(id(variable))

    def require(self, targets: Iterable[PruningTarget]) -> list[Mask]:
        """The masks of these weights; those that are missing start with nothing pruned."""
        return [self._require(target) for target in targets]

    def belongs_to(self, model: keras.Model) -> bool:
        """Whether the state was made for the weights that the model has now."""
        return [id(v) for v in self._variables] == [id(v) for v in model.weights]

    def adopt(self, other: PruningState) -> None:
        """Take over the masks of another state that are of this model's weights."""
        for mask in other.masks:
            if id(mask.variable) in self._targets:
                self._masks[id(mask.variable)] = mask

    def gather(self, masks: Iterable[Mask]) -> None:
        """Give masks a place for the evidence of a criterion; what they have is kept."""
        with self._scope():
            for mask in masks:
                if mask.evidence is None:
                    # Each replica sees its own gradients.
                    mask.evidence = keras.Variable(
                        np.zeros(mask.variable.shape, "float32"),
                        trainable=False,
                        dtype="float32",
                        aggregation="mean",
                        name="pruning_evidence",
                    )

    def train_along(self, masks: Iterable[Mask]) -> None:
        """Give masks a place in which pruned entries are trained; what they have is kept."""
        with self._scope():
            for mask in masks:
                if mask.dense is None:
                    mask.dense = keras.Variable(
                        ops.convert_to_numpy(mask.variable.value),
                        trainable=False,
                        dtype=mask.variable.dtype,
                        aggregation="only_first_replica",
                        name="pruned_values",
                    )

    def forget_evidence(self) -> None:
        """Start the evidence of all masks from zero."""
        for mask in self.masks:
            if mask.evidence is not None:
                mask.evidence.assign(ops.zeros_like(mask.evidence.value))

    def drop_training_values(self) -> None:
        """Give up what only training needs of all masks, which then is in no file."""
        for mask in self.masks:
            for kind in TRAINING_VALUES:
                setattr(mask, kind, None)

    def apply(self) -> None:
        """Set every pruned entry of every weight to zero."""
        for mask in self.masks:
            mask.apply()

    def reset(self) -> None:
        """Forget the steps; nothing is pruned any more. The weights stay as they are."""
        self.step, self.last_update, self.begin = 0, -1, -1
        self.forget_evidence()
        for mask in self.masks:
            if mask.dense is not None:
                mask.dense.assign(ops.zeros_like(mask.dense.value))
            if mask.pruned:
                mask.assign(np.ones(mask.variable.shape, bool), 0)

    def save_own_variables(self, store: Any) -> None:
        """Write the counters and the masks, one bit an entry, into a weights file."""
        store["step"] = np.int64(self.step)
        store["last_update"] = np.int64(self.last_update)
        store["begin"] = np.int64(self.begin)
        for index, mask in self._indexed_masks():
            store[f"mask_{index}"] = np.packbits(mask.numpy().reshape(-1))
            for kind in TRAINING_VALUES:
                variable = getattr(mask, kind)
                if variable is not None:
                    store[f"{kind}_{index}"] = ops.convert_to_numpy(variable.value)

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote.

        A file without pruning state brings weights that no mask describes, so it resets the state.

        Raises:
            ValueError: If the file holds a mask that fits none of the model's weights.
        """
        entries = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        self.reset()
        if "step" not in entries:
            return
        self.step = int(entries["step"])
        self.last_update = int(entries["last_update"])
        self.begin = int(entries["begin"])
        for key, packed in entries.items():
            if key.startswith("mask_"):
                self._load_mask(int(key.removeprefix("mask_")), packed)
        for key, values in entries.items():
            kind, _, index = key.partition("_")
            if kind in TRAINING_VALUES:
                mask = self._masks[id(self._variables[int(index)])]
                make = self.gather if kind == "evidence" else self.train_along
                make([mask])
                getattr(mask, kind).assign(values)
        self.restored = True

    def _load_mask(self, index: int, packed: np.ndarray) -> None:
        variable = self._variables[index] if index < len(self._variables) else None
        target = self._targets.get(id(variable))
        if target is None or packed.size != math.ceil(target.size / 8):
            known = target.name if target is not None else "none"
            raise ValueError(
                "The file's pruning masks do not fit this model: it was saved from another "
                f"architecture. Received: a mask of {packed.size * 8} entries for weight number "
                f"{index} ({known}) of model with {len(self._variables)} weights"
            )
        bits = np.unpackbits(packed, count=target.size).astype(bool)
        self._require(target).assign(bits.reshape(tuple(target.variable.shape)))

    def _require(self, target: PruningTarget) -> Mask:
        key = id(target.variable)
        if key not in self._masks:
            with self._scope():
                self._masks[key] = Mask(target)
        return self._masks[key]

    def _scope(self) -> AbstractContextManager[Any]:
        """Where variables are made of which each replica of a strategy has its own copy."""
        return nullcontext() if self._strategy is None else self._strategy.scope()

    def _indexed_masks(self) -> Iterator[tuple[int, Mask]]:
        for index, variable in enumerate(self._variables):
            if id(variable) in self._masks:
                yield index, self._masks[id(variable)]

    def _obj_type(self) -> str:
        # Keras' saving walk accepts only its own kinds; this one saves nothing further by itself.
        return "Operation"

    def __repr__(self) -> str:
        return (
            f"<PruningState step={self.step}, {len(self.masks)} masks, "
            f"sparsity={self.sparsity:.4f}>"
        )


def find_state(model: keras.Model) -> PruningState | None:
    """The pruning state of a model that was trained with `MagnitudePruning`.

    Args:
        model: A Keras model.

    Returns:
        The state; None if the model was never pruned in this process, or its weights were replaced
        by those of a model that was not.

    Example:

    ```python
    for mask in find_state(model).masks:
        print(mask.name, mask.sparsity)
    ```
    """
    state = getattr(model, _ATTRIBUTE, None)
    return state if isinstance(state, PruningState) else None


def attach_state(model: keras.Model, targets: Sequence[PruningTarget] = ()) -> PruningState:
    """Give a model a pruning state, or return the one it has.

    From then on saving the model, or its weights, saves the state, and loading weights restores it.

    Args:
        model: A built model.
        targets: Weights that are to have a mask. Nothing is pruned in new masks.

    Returns:
        The state.

    Raises:
        ValueError: If the model is not built.
    """
    state = find_state(model)
    if state is None or not state.belongs_to(model):
        earlier, state = state, PruningState(model, not is_declared_dense(model))
        if earlier is not None:
            state.adopt(earlier)
        setattr(model, _ATTRIBUTE, state)
    state.require(targets)
    return state


def copy_masks(
    model: keras.Model,
    copy: keras.Model,
    twins: Mapping[int, keras.Variable],
    sliced: Callable[[keras.Variable, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Let the weights that are pruned in a model be pruned in a copy of it, too.

    Args:
        model: A Keras model, pruned or not.
        copy: A model with copies of its weights.
        twins: By `id(variable)` of the model, the variable of the copy. Others are left out.
        sliced: Returns what is left of a weight's values in a smaller copy. Defaults to None: all.

    Raises:
        ValueError: If pruned weights of the model are not zero any more.
    """
    state = apply_masks(model)
    if state is None:
        return
    left = {}
    for mask in state.masks:
        if id(mask.variable) in twins:
            value = mask.numpy()
            value = value if sliced is None else sliced(mask.variable, value)
            if not value.all():
                left[id(twins[id(mask.variable)])] = value
    if left:
        known = every_weight(copy)
        for mask in attach_state(copy, [known[key] for key in left]).masks:
            mask.assign(left[id(mask.variable)])


def detach_state(model: keras.Model) -> None:
    """Forget a model's masks, so that its weights count as dense, zeros among them too.

    The weights stay as they are. A model that was loaded from a file has no masks in this process,
    but those of its weights that hold zeros are taken for pruned: this says that they are not.
    """
    setattr(model, _ATTRIBUTE, _DENSE)


def is_declared_dense(model: keras.Model) -> bool:
    """Whether `detach_state` was the last that was said of the model's masks."""
    return getattr(model, _ATTRIBUTE, None) is _DENSE


def apply_masks(model: keras.Model, repair: bool = False) -> PruningState | None:
    """Check that a pruned model's weights are zero where its masks say so.

    Args:
        model: A Keras model, pruned or not.
        repair: Set weights that are not zero back to zero instead of raising. Defaults to `False`.

    Returns:
        The pruning state, whose masks and weights agree; None if the model has none.

    Raises:
        ValueError: If pruned weights are not zero and `repair` is False: applying the masks would
            change what the model computes.
    """
    state = find_state(model)
    if state is None:
        return None
    regrown = {mask.name: mask.regrown() for mask in state.masks}
    changed = {name: count for name, count in regrown.items() if count}
    if changed and not repair:
        listed = ", ".join(f"{name}: {count}" for name, count in list(changed.items())[:8])
        raise ValueError(
            f"{sum(changed.values())} pruned weights are not zero any more ({listed}). The model "
            "was trained, or given other weights, without its masks. Train it with the pruning "
            "callback, or call `tfcompress.pruning.apply_masks(model, repair=True)` to "
            "zero them again, or `tfcompress.pruning.detach_state(model)` to keep them."
        )
    if changed:
        state.apply()
    return state

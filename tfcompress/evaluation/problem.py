"""What a model's outputs mean, worked out from labels and outputs: the classes or the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TASKS = ("auto", "classification", "regression")


@dataclass(frozen=True)
class Problem:
    """A task, its labels in one form, and how outputs become predictions.

    Build it with `Problem.infer`.

    Attributes:
        task: `"classification"` or `"regression"`.
        labels: Class ids of shape `(n,)`, int64; or numbers of shape `(n, k)`, float64.
        classes: Number of classes; 0 for regression.
        threshold: Output above which a binary classifier says 1; `None` for more classes.
    """

    task: str
    labels: np.ndarray
    classes: int = 0
    threshold: float | None = None

    @classmethod
    def infer(
        cls, labels: np.ndarray, outputs: Mapping[str, np.ndarray], task: str = "auto"
    ) -> Problem:
        """Work out the task and check that the labels fit the outputs.

        Class ids, one-hot rows, and 0/1 labels of a model with one output are classification,
        as integers and as floats; anything else is regression.

        Args:
            labels: Shape `(n,)` or `(n, 1)`, or one-hot `(n, classes)`; for outputs with inner
                axes such as `(n, time, classes)` the same axes without the last. For regression,
                the shape of the outputs.
            outputs: Outputs of every compared model by name, each of the same shape.
            task: `"auto"`, `"classification"` or `"regression"`.

        Returns:
            The problem.

        Raises:
            ValueError: If the labels do not fit: another length or shape, non-integer class ids,
                ids out of range, or not finite. Also if the models' outputs differ in shape or are
                not finite.
        """
        if task not in TASKS:
            raise ValueError(
                f"`task` must be one of {', '.join(map(repr, TASKS))}. Received: {task!r}"
            )
        labels = np.asarray(labels)
        shape = _common_shape(labels, outputs)
        if task == "regression" or (task == "auto" and not _are_classes(labels, shape, outputs)):
            return cls("regression", _numbers(labels, shape))
        width = shape[-1] if len(shape) > 1 else 1
        if width == 1:
            inside = all(bool(np.all((o >= 0) & (o <= 1))) for o in outputs.values())
            positions = shape[:-1] if len(shape) > 1 else shape
            ids = _class_ids(labels, shape, positions, 2)
            return cls("classification", ids, 2, 0.5 if inside else 0.0)
        return cls("classification", _class_ids(labels, shape, shape[:-1], width), width)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return class ids of shape `(n,)`, or the numbers of shape `(n, k)`."""
        if self.task == "regression":
            return outputs.reshape(len(outputs), -1).astype(np.float64)
        if self.threshold is not None:
            return (outputs.reshape(-1) > self.threshold).astype(np.int64)
        return outputs.reshape(-1, self.classes).argmax(-1).astype(np.int64)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Return probabilities of shape `(n, classes)`, or `None` if the outputs are not that."""
        if self.task == "regression" or outputs.min() < 0 or outputs.max() > 1:
            return None
        if self.threshold is not None:
            positive = outputs.reshape(-1)
            return np.stack([1 - positive, positive], axis=-1)
        rows = outputs.reshape(-1, self.classes)
        # An int8 softmax rounds every probability to 1/256, so rows add up to 1 only about.
        return rows if abs(float(rows.sum(-1).mean()) - 1) < 0.1 else None


def _common_shape(labels: np.ndarray, outputs: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    (first, reference), *others = outputs.items()
    for name, output in others:
        if output.shape != reference.shape:
            raise ValueError(
                "All entries must have outputs of one shape. Received: "
                f"{first!r} with {reference.shape}, {name!r} with {output.shape}"
            )
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            rows = np.flatnonzero(~np.isfinite(output.reshape(len(output), -1)).all(-1))
            raise ValueError(
                f"The outputs of {name!r} are NaN or infinite for {len(rows)} of {len(output)} "
                f"samples, the first at index {rows[0]}. Check its inputs and its weights."
            )
    if labels.ndim == 0 or len(labels) != len(reference):
        raise ValueError(
            f"There must be one label a sample. Received: labels of shape {labels.shape} for "
            f"{len(reference)} samples"
        )
    return reference.shape


def _are_classes(
    labels: np.ndarray, shape: tuple[int, ...], outputs: Mapping[str, np.ndarray]
) -> bool:
    width = shape[-1] if len(shape) > 1 else 1
    if width == 1:
        binary = bool(np.isin(labels, (0, 1)).all())
        if not binary or labels.dtype.kind in "iub" or labels.min() != labels.max():
            return binary
        # The same number everywhere, as floats, is a label only if outputs look like probabilities.
        return all(o.min() >= 0 and o.max() <= 1 for o in outputs.values())
    if labels.shape == shape:
        return _is_one_hot(labels)
    # Whatever their type, labels that cannot be targets of a regression are meant as class ids:
    # say what is wrong with them as such.
    return True


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all())


def _class_ids(
    labels: np.ndarray, shape: tuple[int, ...], positions: tuple[int, ...], classes: int
) -> np.ndarray:
    if labels.shape == (*positions, classes):
        if not _is_one_hot(labels):
            raise ValueError(
                f"Labels of shape {labels.shape} must be one-hot: a single 1 a row. "
                f"Received rows such as {labels.reshape(-1, classes)[0].tolist()}"
            )
        return labels.reshape(-1, classes).argmax(-1).astype(np.int64)
    if labels.shape not in (positions, (*positions, 1)):
        raise ValueError(
            f"Outputs of shape {shape} need class ids of shape {positions} or one-hot rows of "
            f"shape {(*positions, classes)}. Received: labels of shape {labels.shape}"
        )
    if labels.dtype.kind not in "iub":
        integral = bool(np.isfinite(labels).all() and (labels == np.round(labels)).all())
        if classes > 2 or not integral:
            cast = " If they are class ids, cast them: y.astype('int64')." if integral else ""
            raise ValueError(
                f"A classifier with {classes} classes needs integer class ids. Received: labels "
                f"of dtype {labels.dtype}, such as {labels.reshape(-1)[0]}.{cast} For numbers to "
                "be predicted, the outputs must have the shape of the labels."
            )
    ids = labels.reshape(-1).astype(np.int64)
    if ids.min() < 0 or ids.max() >= classes:
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(
            f"Class ids must lie in 0 … {classes - 1}, since the outputs have shape {shape}. "
            f"Received: a label {wrong}"
        )
    return ids


def _numbers(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape[1:], dtype=np.int64))
    if int(np.prod(labels.shape[1:], dtype=np.int64)) != count:
        raise ValueError(
            f"For regression the labels must have the shape of the outputs, {shape}. "
            f"Received: labels of shape {labels.shape}"
        )
    if labels.dtype.kind not in "fiub" or not np.isfinite(labels).all():
        raise ValueError(
            f"For regression the labels must be finite numbers. Received: dtype {labels.dtype}"
            + (" with NaN or infinity" if labels.dtype.kind == "f" else "")
        )
    return labels.reshape(len(labels), -1).astype(np.float64)

"""How good a variant of a model is in one number, and how far its outputs are from the model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.evaluation.output_distance import BEST_SQNR as BEST_SQNR
from tfcompress.evaluation.problem import Problem

Metric = Callable[[Any, Any], float]

METRICS = ("accuracy", "loss", "mse", "agreement", "noise")

# What stands for outputs that are not finite, or have nothing in common with the model's.
WORST_SQNR = -100.0

_SMALLEST_PROBABILITY = 1e-7
_BETTER = {"accuracy": 1, "agreement": 1, "loss": -1, "mse": -1, "noise": -1}


class Score:
    """Judges the outputs of variants of a model against labels and against its own outputs.

    Args:
        outputs: Outputs of the model as it is, each of shape `(n, ...)`.
        labels: Class ids `(n,)`, one-hot rows or numbers; `None` without labels.
        metric: `"accuracy"`; `"loss"` (cross-entropy, or mean squared error of a regression);
            `"mse"`; `"agreement"` (share of samples for which the model's own prediction stays);
            `"noise"` (squared difference to the model's outputs, as a share of their power); or
            `metric(labels, outputs)`, of which more is better. Defaults to `None`: accuracy for
            labels that are classes and mean squared error for numbers; without labels agreement for
            outputs that are probabilities, else noise.

    Attributes:
        name: Name of the metric.
        better: 1 if more is better, -1 if less is.
        baseline: The metric of the model as it is.

    Raises:
        ValueError: If the metric is unknown, or does not go with the labels and outputs.
    """

    def __init__(
        self,
        outputs: Sequence[np.ndarray],
        labels: np.ndarray | None = None,
        metric: str | Metric | None = None,
    ) -> None:
        self._reference = list(outputs)
        self._labels = labels
        self._problem: Problem | None = None
        if callable(metric):
            self.name = getattr(metric, "__name__", type(metric).__name__)
            self.better = 1
            self._function: Metric | None = metric
        else:
            self._function = None
            self.name = self._chosen(metric)
            self.better = _BETTER[self.name]
        binary = self._problem is not None and self._problem.threshold == 0.5
        self._are_probabilities = [_sum_to_one(o) or (binary and _width(o) == 1) for o in outputs]
        self._signals = self._to_signals(self._reference)
        self.baseline = self.value(self._reference)

    def _chosen(self, metric: str | None) -> str:
        if metric is not None and metric not in METRICS:
            raise ValueError(
                f"`metric` must be one of {', '.join(map(repr, METRICS))}, a function or None. "
                f"Received: {metric!r}"
            )
        single = len(self._reference) == 1
        if self._labels is not None and metric not in ("agreement", "noise"):
            if not single:
                raise ValueError(
                    "The labels of a model with several outputs need `metric`, a function "
                    "`metric(labels, outputs)`. Received: "
                    f"{len(self._reference)} outputs, metric={metric!r}"
                )
            task = {"accuracy": "classification", "mse": "regression"}.get(metric or "", "auto")
            self._problem = Problem.infer(self._labels, {"model": self._reference[0]}, task)
            classes = self._problem.task == "classification"
            return metric or ("accuracy" if classes else "mse")
        if metric in ("accuracy", "loss", "mse"):
            raise ValueError(f"The metric {metric!r} needs labels: give `data` as (x, y).")
        probable = single and _sum_to_one(self._reference[0])
        if metric == "agreement" and not single:
            raise ValueError("The metric 'agreement' is for models with one output.")
        return metric or ("agreement" if probable else "noise")

    def value(self, outputs: Sequence[np.ndarray]) -> float:
        """Return the metric of a variant's outputs."""
        if self._function is not None:
            given = outputs[0] if len(outputs) == 1 else list(outputs)
            return float(self._function(self._labels, given))
        if self.name == "noise":
            return 10 ** (-self.sqnr(outputs) / 10)
        output = np.asarray(outputs[0])
        if self.name == "agreement":
            return float(np.mean(_decisions(output) == _decisions(self._reference[0])))
        problem = self._problem
        if problem is None:
            raise ValueError(f"The metric {self.name!r} needs labels.")
        predictions = problem.predictions(output)
        if self.name == "accuracy":
            return float(np.mean(predictions == problem.labels))
        if problem.task == "regression":
            return float(np.mean(np.square(predictions - problem.labels)))
        return self._cross_entropy(problem, output)

    def _cross_entropy(self, problem: Problem, output: np.ndarray) -> float:
        rows = output.reshape(-1, 1 if problem.threshold is not None else problem.classes)
        if not self._are_probabilities[0]:
            rows = np.concatenate([np.zeros_like(rows), rows], 1) if rows.shape[1] == 1 else rows
            rows = rows - rows.max(1, keepdims=True)
            logs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
        else:
            rows = np.concatenate([1 - rows, rows], 1) if rows.shape[1] == 1 else rows
            logs = np.log(np.clip(rows, _SMALLEST_PROBABILITY, 1.0))
        return float(-np.mean(logs[np.arange(len(logs)), problem.labels]))

    def drop(self, value: float) -> float:
        """Return how much worse a value is than the baseline; negative if it is better."""
        return (self.baseline - value) * self.better

    def sqnr(self, outputs: Sequence[np.ndarray]) -> float:
        """Return the signal-to-noise ratio of a variant's outputs, in dB.

        Where the outputs are probabilities, the ratio is that of their logits, which do not
        saturate.
        """
        signal = noise = 0.0
        for reference, found in zip(self._signals, self._to_signals(outputs), strict=True):
            signal += float(np.sum(np.square(reference)))
            noise += float(np.sum(np.square(found - reference)))
        if not math.isfinite(noise) or signal == 0.0 < noise:
            return WORST_SQNR
        if noise <= signal * 10 ** (-BEST_SQNR / 10):
            return BEST_SQNR
        return max(WORST_SQNR, 10 * math.log10(signal / noise))

    def _to_signals(self, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            _logits(np.asarray(output, "float64")) if probable else np.asarray(output, "float64")
            for output, probable in zip(outputs, self._are_probabilities, strict=True)
        ]


def _width(output: np.ndarray) -> int:
    return output.shape[-1] if output.ndim > 1 else 1


def _sum_to_one(output: np.ndarray) -> bool:
    if _width(output) < 2 or output.min() < 0:
        return False
    return bool(np.abs(output.sum(-1) - 1).max() < 0.01)


def _decisions(output: np.ndarray) -> np.ndarray:
    return output.argmax(-1) if _width(output) > 1 else output > 0.5


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to what all classes of a sample have in common."""
    logs: np.ndarray = np.log(np.clip(probabilities, _SMALLEST_PROBABILITY, 1.0))
    if _width(probabilities) == 1:
        rest: np.ndarray = np.log(np.clip(1.0 - probabilities, _SMALLEST_PROBABILITY, 1.0))
        return logs - rest
    return logs - logs.mean(-1, keepdims=True)

"""Task metrics through scikit-learn, and calibration of probabilities."""

from __future__ import annotations

import numpy as np

from tfcompress.evaluation.problem import Problem
from tfcompress.evaluation.results import CalibrationBin, ClassScores

CALIBRATION_BINS = 15


def scores(problem: Problem, predictions: np.ndarray) -> dict[str, float]:
    """Return the metrics of the task.

    Args:
        problem: The task and its labels.
        predictions: As `problem.predictions` returns them.

    Returns:
        `accuracy` and macro `precision`, `recall` and `f1` for classification, over the classes
        that occur; `mae` and `mse` over all outputs for regression.
    """
    from sklearn import metrics

    if problem.task == "regression":
        return {
            "mae": float(metrics.mean_absolute_error(problem.labels, predictions)),
            "mse": float(metrics.mean_squared_error(problem.labels, predictions)),
        }
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        problem.labels, predictions, average="macro", zero_division=0
    )
    return {
        "accuracy": float(metrics.accuracy_score(problem.labels, predictions)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def scores_per_class(problem: Problem, predictions: np.ndarray) -> list[ClassScores]:
    """Return precision, recall and F1 of every class, in the order of the ids."""
    from sklearn import metrics

    columns = metrics.precision_recall_fscore_support(
        problem.labels, predictions, labels=np.arange(problem.classes), zero_division=0
    )
    return [ClassScores(float(p), float(r), float(f), int(s)) for p, r, f, s in zip(*columns)]


def confusion(problem: Problem, predictions: np.ndarray) -> np.ndarray:
    """Return counts of shape `(classes, classes)`: a row a label, a column a prediction."""
    cells = problem.labels * problem.classes + predictions
    return np.bincount(cells, minlength=problem.classes**2).reshape(problem.classes, -1)


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[CalibrationBin]:
    """Return confidence and accuracy of the samples in 15 equal bins of confidence.

    Args:
        probabilities: Shape `(n, classes)`.
        labels: Class ids of shape `(n,)`.

    Returns:
        The bins that hold samples, the least confident first.
    """
    confidence = probabilities.max(-1).astype(np.float64)
    right = probabilities.argmax(-1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, values, CALIBRATION_BINS) for values in (confidence, right)]
    return [
        CalibrationBin(int(count), float(total / count), float(hits / count))
        for count, total, hits in zip(counts, *sums)
        if count
    ]


def calibration_error(bins: list[CalibrationBin]) -> float:
    """Return the expected calibration error: how far confidence is from being right.

    The mean distance between confidence and accuracy, weighted by the samples of the bins (Guo et
    al. 2017, "On Calibration of Modern Neural Networks", equation 3).

    Args:
        bins: What `calibration_bins` returned.
    """
    samples = sum(item.samples for item in bins)
    return sum(item.samples * abs(item.confidence - item.accuracy) for item in bins) / samples

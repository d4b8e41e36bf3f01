import numpy as np
import pytest

from tfcompress.evaluation import metrics
from tfcompress.evaluation.problem import Problem

LABELS = np.array([0, 0, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 0])


@pytest.fixture
def problem():
    return Problem("classification", LABELS, 4)


def test_scores_by_hand(problem):
    # Class 3 never occurs and is left out of the means; nothing is predicted as class 2.
    scores = metrics.scores(problem, PREDICTED)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert scores["recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)


def test_scores_per_class(problem):
    rows = metrics.scores_per_class(problem, PREDICTED)
    assert [row.support for row in rows] == [2, 2, 1, 0]
    assert rows[1].precision == pytest.approx(2 / 3)
    assert rows[3] == metrics.ClassScores(0.0, 0.0, 0.0, 0)


def test_confusion(problem):
    expected = [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert metrics.confusion(problem, PREDICTED).tolist() == expected


def test_regression():
    problem = Problem("regression", np.array([[1.0], [2.0], [4.0]]))
    scores = metrics.scores(problem, np.array([[1.0], [3.0], [1.0]]))
    assert scores == {"mae": pytest.approx(4 / 3), "mse": pytest.approx(10 / 3)}


def test_calibration_error():
    # Right half of the time at a confidence of 0.9: off by 0.4.
    probabilities = np.tile([0.9, 0.1], (10, 1))
    labels = np.array([0, 1] * 5)
    (only,) = metrics.calibration_bins(probabilities, labels)
    assert (only.samples, only.confidence, only.accuracy) == (10, pytest.approx(0.9), 0.5)
    assert metrics.calibration_error([only]) == pytest.approx(0.4)
    sure = np.eye(2)[labels]
    bins = metrics.calibration_bins(sure, labels)
    assert metrics.calibration_error(bins) == pytest.approx(0.0)

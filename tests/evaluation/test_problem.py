import numpy as np
import pytest

from tfcompress.evaluation.problem import Problem

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [4.0, 3.0, 0.0]])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2, 1]),
        np.array([[0], [1], [2], [1]], np.uint8),
        np.eye(3)[[0, 1, 2, 1]],
        np.eye(3, dtype=np.int32)[[0, 1, 2, 1]],
    ],
)
def test_class_ids_and_one_hot(labels):
    problem = Problem.infer(labels, {"a": LOGITS})
    assert problem.task == "classification"
    assert problem.classes == 3
    assert problem.labels.tolist() == [0, 1, 2, 1]
    assert problem.predictions(LOGITS).tolist() == [0, 1, 2, 0]
    assert problem.probabilities(LOGITS) is None


@pytest.mark.parametrize("labels", [np.array([0, 1, 1]), np.array([[0.0], [1.0], [1.0]])])
def test_binary_with_probabilities(labels):
    outputs = np.array([[0.2], [0.7], [0.4]])
    problem = Problem.infer(labels, {"a": outputs})
    assert (problem.task, problem.classes, problem.threshold) == ("classification", 2, 0.5)
    assert problem.predictions(outputs).tolist() == [0, 1, 0]
    np.testing.assert_allclose(problem.probabilities(outputs)[0], [0.8, 0.2])


@pytest.mark.parametrize(
    "labels",
    [np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]), np.array([[0.0], [1.0], [1.0]], np.float32)],
)
def test_binary_with_logits(labels):
    outputs = np.array([[-0.3], [2.0], [0.2]])
    problem = Problem.infer(labels, {"a": outputs})
    assert (problem.task, problem.classes, problem.threshold) == ("classification", 2, 0.0)
    assert problem.labels.tolist() == problem.predictions(outputs).tolist() == [0, 1, 1]


def test_binary_with_logits_in_any_entry():
    problem = Problem.infer(
        np.array([0, 1]), {"a": np.array([[0.2], [0.3]]), "b": np.array([[-2.0], [1.5]])}
    )
    assert problem.threshold == 0.0
    assert problem.predictions(np.array([[-0.1], [0.1]])).tolist() == [0, 1]


def test_a_class_for_every_position():
    outputs = np.random.default_rng(0).normal(size=(2, 5, 4))
    labels = outputs.argmax(-1)
    problem = Problem.infer(labels, {"a": outputs})
    assert problem.labels.shape == (10,)
    assert (problem.predictions(outputs) == problem.labels).all()


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (np.array([0.5, 1.5]), np.array([[0.4], [1.4]])),
        (np.array([[3], [7]]), np.array([[0.4], [1.4]])),
        (np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[0.1, 0.2], [0.3, 0.4]])),
        (np.array([0.0, 0.0]), np.array([[0.1], [1.2]])),
        (np.array([-1.0, 1.0]), np.array([[-0.9], [1.2]])),
        (np.array([0.0, 0.5, 1.0]), np.array([[0.1], [0.4], [1.2]])),
    ],
)
def test_regression(labels, outputs):
    problem = Problem.infer(labels, {"a": outputs})
    assert problem.task == "regression"
    assert problem.labels.shape == problem.predictions(outputs).shape == outputs.shape


def test_the_task_can_be_said():
    labels, outputs = np.array([0, 1]), np.array([[0.2], [0.9]])
    for given in (labels, labels.astype("float32")):
        assert Problem.infer(given, {"a": outputs}, "regression").task == "regression"
    with pytest.raises(ValueError, match="`task` must be one of 'auto'"):
        Problem.infer(labels, {"a": outputs}, "classify")


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        (np.array([0, 1, 2]), "auto", r"one label a sample.*\(3,\) for 4 samples"),
        (np.array([0, 1, 2, 3]), "auto", r"lie in 0 … 2.*a label 3"),
        (np.array([0, 1, 2, -1]), "auto", "a label -1"),
        (np.array([0.5, 1.0, 2.0, 0.0]), "auto", r"integer class ids.*float64, such as 0\.5"),
        (np.array([0.0, 1.0, 2.0, 0.0]), "auto", r"y\.astype\('int64'\)"),
        (np.array([0.0, np.nan, 2.0, 0.0]), "auto", "integer class ids"),
        (np.zeros((4, 2), np.int64), "auto", r"shape \(4,\) or one-hot rows of shape \(4, 3\)"),
        (np.full((4, 3), 0.3), "classification", "must be one-hot"),
        (np.array([0, 1, 2, 0]), "regression", r"shape of the outputs, \(4, 3\)"),
        (np.full((4, 3), np.inf), "regression", "finite numbers.*with NaN or infinity"),
    ],
)
def test_labels_that_do_not_fit(labels, task, message):
    with pytest.raises(ValueError, match=message):
        Problem.infer(labels, {"a": LOGITS}, task)


def test_outputs_that_do_not_fit():
    labels = np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"'a' with \(4, 3\), 'b' with \(4, 2\)"):
        Problem.infer(labels, {"a": LOGITS, "b": LOGITS[:, :2]})
    broken = LOGITS.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"'b' are NaN or infinite for 1 of 4.*index 2"):
        Problem.infer(labels, {"a": LOGITS, "b": broken})

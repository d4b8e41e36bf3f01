"""One number for the outputs of a variant, and the samples that it is taken on."""

import numpy as np
import pytest

from tfcompress import datasets
from tfcompress.evaluation.score import BEST_SQNR, Score
from tfcompress.evaluation.trial_samples import trial_samples

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], "float32")
LABELS = np.array([0, 1, 0])


def test_the_metric_follows_from_labels_and_outputs():
    assert Score([PROBABILITIES], LABELS).name == "accuracy"
    assert (
        Score([PROBABILITIES], np.array([0.1, 0.5, 0.2])[:, None] * np.ones((3, 3))).name == "mse"
    )
    assert Score([PROBABILITIES]).name == "agreement"
    assert Score([PROBABILITIES * 3 - 1]).name == "noise"
    assert Score([PROBABILITIES, PROBABILITIES]).name == "noise"


def test_drops_are_positive_where_it_is_worse():
    score = Score([PROBABILITIES], LABELS)
    worse = PROBABILITIES[:, [1, 0, 2]]
    assert score.baseline == pytest.approx(2 / 3)
    assert score.drop(score.value([worse])) == pytest.approx(2 / 3)
    loss = Score([PROBABILITIES], LABELS, "loss")
    assert loss.baseline == pytest.approx(-np.log([0.7, 0.8, 0.3]).mean(), rel=1e-5)
    assert loss.drop(loss.baseline + 0.5) == pytest.approx(0.5)


def test_logits_lose_as_much_as_their_probabilities():
    logits = np.log(PROBABILITIES) + np.array([[3.0], [-1.0], [0.0]])
    by_logits = Score([logits.astype("float32")], LABELS, "loss").baseline
    assert by_logits == pytest.approx(Score([PROBABILITIES], LABELS, "loss").baseline, rel=1e-5)


def test_the_noise_of_probabilities_is_that_of_their_logits():
    score = Score([PROBABILITIES])
    assert score.sqnr([PROBABILITIES]) == BEST_SQNR
    logits = np.log(PROBABILITIES)
    logits -= logits.mean(1, keepdims=True)
    changed = np.exp(1.1 * logits)
    changed /= changed.sum(1, keepdims=True)
    # Logits that are a tenth larger: a hundredth of the power is noise.
    assert score.sqnr([changed]) == pytest.approx(20.0, abs=1e-3)
    assert score.sqnr([np.full_like(PROBABILITIES, np.nan)]) == -100.0


def test_a_function_of_ones_own():
    score = Score([PROBABILITIES], LABELS, lambda labels, outputs: float(outputs[0, 0]))
    assert (score.baseline, score.better) == (pytest.approx(0.7), 1)


@pytest.mark.parametrize(
    ("outputs", "labels", "metric", "said"),
    [
        ([PROBABILITIES], LABELS, "f1", "`metric` must be one of"),
        ([PROBABILITIES], None, "accuracy", "needs labels"),
        ([PROBABILITIES, PROBABILITIES], LABELS, None, "several outputs need `metric`"),
    ],
)
def test_what_does_not_go_together_is_refused(outputs, labels, metric, said):
    with pytest.raises(ValueError, match=said):
        Score(outputs, labels, metric)


def test_samples_are_evenly_spaced_and_keep_their_labels():
    x = np.arange(100, dtype="float32")[:, None]
    found = trial_samples((x, np.arange(100)), [("x", (1,), "float32")], limit=5)
    np.testing.assert_array_equal(found.labels, [0, 25, 50, 74, 99])
    np.testing.assert_array_equal(found.inputs["x"][:, 0], found.labels)
    assert trial_samples(x, [("x", (1,), "float32")], limit=5).labels is None
    batches = list(found.batches(3))
    assert [batch[0].shape for batch in batches] == [(3, 1), (3, 1)]
    assert batches[1][0][2, 0] == 0


def test_validation_samples_come_before_training_samples(tmp_path):
    specs = [("image", (8, 8, 1), "float32")]
    data = datasets.load("digits", validation=0.2)
    assert trial_samples(data, specs, None).count == data.validation.size
    assert trial_samples("digits", specs, None).count == 1437
    np.savez(tmp_path / "x.npz", image=data.test.x)
    assert trial_samples(tmp_path / "x.npz", specs, None).labels is None
    np.savez(tmp_path / "xy.npz", x=data.test.x, y=data.test.y)
    assert trial_samples(tmp_path / "xy.npz", specs, None).labels is not None

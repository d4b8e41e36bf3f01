"""What a training with the callback sees."""

import numpy as np
import pytest

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import PolynomialDecay

STEPS = 8
TOTAL = 8 * 16 + 16 * 16 + 16 * 2


@pytest.mark.parametrize("schedule", ["constant", "polynomial", "cosine"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_final_sparsity_is_exact(schedule, scope, dense_model, fit, kernels, zeros):
    model = dense_model()
    fit(model, MagnitudePruning(0.8, schedule=schedule, scope=scope))
    if scope == "global":
        assert zeros(model) == round(0.8 * TOTAL)
    else:
        assert [int((k == 0).sum()) for k in kernels(model)] == [102, 205, 26]


def test_the_training_step_itself_keeps_the_zeros(dense_model, fit, recorder):
    model, recorder = dense_model(), recorder()
    pruning = MagnitudePruning(0.8, schedule="constant", begin=5, end=10)
    fit(model, recorder, pruning)
    assert recorder.sparsities[:5] == [0.0] * 5
    assert recorder.sparsities[5:] == [round(0.8 * TOTAL) / TOTAL] * (3 * STEPS - 5)


def test_the_schedule_is_followed_step_by_step(dense_model, fit, recorder):
    model, recorder = dense_model(), recorder()
    fit(model, MagnitudePruning(0.8, begin=4, end=16, frequency=4), recorder)
    schedule = PolynomialDecay()
    for step, seen in enumerate(recorder.sparsities):
        last = 0 if step < 4 else min(step, 16) // 4 * 4
        expected = schedule(max(0, last - 4) / 12, 0.8)
        assert seen == pytest.approx(expected, abs=0.5 / TOTAL), step


def test_sparsity_in_the_logs(dense_model, fit):
    model = dense_model()
    history = fit(model, MagnitudePruning(0.8, end=1.0), epochs=2).history
    assert len(history["sparsity"]) == 2
    assert history["sparsity"][-1] == round(0.8 * TOTAL) / TOTAL
    layer_sizes = {"a": 128, "b": 256, "logits": 32}
    total = sum(history[f"sparsity/{name}"][-1] * size for name, size in layer_sizes.items())
    assert total == pytest.approx(round(0.8 * TOTAL), abs=1e-9)
    assert 0 < history["sparsity"][0] < history["sparsity"][1]


def test_validation_sees_the_sparse_model(dense_model, fit, data, recorder):
    model, recorder = dense_model(), recorder()
    x, y = data(1)
    fit(model, recorder, MagnitudePruning(0.8, end=1.0), epochs=1, validation_data=(x, y))
    assert set(recorder.validation) == {round(0.8 * TOTAL) / TOTAL}


def test_zero_sparsity_trains_bit_identically(dense_model, fit):
    plain, pruned = dense_model(), dense_model()
    fit(plain)
    fit(pruned, MagnitudePruning(0.0))
    for expected, weight in zip(plain.get_weights(), pruned.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_at_least_one_weight_survives(dense_model, fit, kernels):
    model = dense_model()
    fit(model, MagnitudePruning(0.9999))
    assert [int((kernel != 0).sum()) for kernel in kernels(model)] == [1, 1, 1]


def test_biases_and_excluded_layers_stay_dense(dense_model, fit):
    model = dense_model()
    pruning = MagnitudePruning(0.5, exclude="logits")
    fit(model, pruning)
    assert (model.get_layer("logits").get_weights()[0] != 0).all()
    assert [target.name for target in pruning.targets] == ["a/kernel", "b/kernel"]
    assert {weight.name for weight in pruning.skipped} == {
        "a/bias",
        "b/bias",
        "logits/bias",
        "logits/kernel",
    }

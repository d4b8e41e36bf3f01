"""Schedules and masks that go on after an interruption."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import (
    PolynomialDecay,
    apply_masks,
    attach_state,
    detach_state,
    find_state,
)

STEPS = 8
TOTAL = 8 * 16 + 16 * 16 + 16 * 2


@pytest.fixture
def uninterrupted(dense_model, fit):
    """The model after a training that was not interrupted."""
    model = dense_model()
    fit(model, MagnitudePruning(0.8), epochs=6)
    return model


@pytest.mark.parametrize("pruning_first", [True, False])
def test_backup_and_restore_continues_exactly(
    tmp_path, pruning_first, dense_model, fit, uninterrupted, kill, killed
):
    def callbacks():
        pair = [
            MagnitudePruning(0.8),
            keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        ]
        return pair if pruning_first else pair[::-1]

    with pytest.raises(killed):
        fit(dense_model(), *callbacks(), kill(3 * STEPS + 2), epochs=6)
    resumed = dense_model(seed=7)
    fit(resumed, *callbacks(), epochs=6)
    assert find_state(resumed).step == 6 * STEPS
    for expected, weight in zip(uninterrupted.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("pruning_first", "after"), [(True, 3), (True, 11), (True, 31), (False, 6), (False, 17)]
)
def test_killed_between_backups(
    tmp_path, pruning_first, after, dense_model, fit, zeros, kill, killed
):
    def callbacks():
        pair = [
            MagnitudePruning(0.8, frequency=3),
            keras.callbacks.BackupAndRestore(
                tmp_path / "backup", save_freq=5, delete_checkpoint=False
            ),
        ]
        return pair if pruning_first else pair[::-1]

    with pytest.raises(killed):
        fit(dense_model(), *callbacks(), kill(after), epochs=6)
    saved = after // 5 * 5
    resumed, seen = dense_model(seed=7), []
    pruning, backup = callbacks() if pruning_first else callbacks()[::-1]
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append((pruning.state.step, zeros(resumed)))
    )
    fit(resumed, *([pruning, backup] if pruning_first else [backup, pruning]), look, epochs=6)
    assert seen[0][0] == saved
    if saved:
        timetable = pruning._timetable
        last_due = timetable.last_due(saved - 1)
        expected = PolynomialDecay()(timetable.progress(last_due), 0.8) * TOTAL
        assert seen[0][1] == int(expected + 0.5)
    assert zeros(resumed) == round(0.8 * TOTAL)
    assert find_state(resumed).sparsity == round(0.8 * TOTAL) / TOTAL


def test_resumed_from_a_keras_file(tmp_path, dense_model, fit, uninterrupted, kill, killed):
    model = dense_model()
    path = tmp_path / "checkpoint.keras"
    with pytest.raises(killed):
        fit(
            model,
            MagnitudePruning(0.8),
            keras.callbacks.ModelCheckpoint(path),
            kill(3 * STEPS + 2),
            epochs=6,
        )
    resumed = keras.models.load_model(path)
    assert find_state(resumed) is None
    fit(resumed, MagnitudePruning(0.8), epochs=6, initial_epoch=3)
    for expected, weight in zip(uninterrupted.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_resumed_from_a_file_of_the_middle_of_an_epoch(
    tmp_path, dense_model, fit, zeros, kill, killed
):
    model = dense_model()
    path = tmp_path / "checkpoint.keras"
    save = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model.save(path) if model.optimizer.iterations == 3 * STEPS + 5 else None
        )
    )
    with pytest.raises(killed):
        fit(model, MagnitudePruning(0.8), save, kill(3 * STEPS + 6), epochs=6)
    resumed = keras.models.load_model(path)
    before = zeros(resumed)
    steps = []
    pruning = MagnitudePruning(0.8)
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: steps.append((pruning.state.step, zeros(resumed)))
    )
    fit(resumed, pruning, look, epochs=6, initial_epoch=3)
    assert steps[0] == (3 * STEPS + 5, before)
    assert zeros(resumed) == round(0.8 * TOTAL)


@pytest.mark.parametrize("same_callback", [True, False])
def test_a_second_fit_with_an_initial_epoch_continues(
    same_callback, dense_model, fit, zeros, recorder, kill, killed
):
    model = dense_model()
    pruning = MagnitudePruning(0.8, begin=0, end=30)
    with pytest.raises(killed):
        fit(model, pruning, kill(2 * STEPS), epochs=6)
    reached = zeros(model)
    follow = pruning if same_callback else MagnitudePruning(0.8, begin=0, end=30)
    recorder = recorder()
    fit(model, follow, recorder, epochs=6, initial_epoch=2)
    assert recorder.sparsities[0] * TOTAL >= reached
    assert follow.state.step == 6 * STEPS
    assert zeros(model) == round(0.8 * TOTAL)


def test_a_second_fit_from_epoch_zero_starts_anew(dense_model, fit, zeros, recorder):
    model = dense_model()
    fit(model, MagnitudePruning(0.5))
    pruning, recorder = MagnitudePruning(0.8), recorder()
    fit(model, pruning, recorder)
    assert pruning.state.step == 3 * STEPS
    assert recorder.sparsities[0] == 0.5
    assert zeros(model) == round(0.8 * TOTAL)


def test_a_second_fit_may_ask_for_less(dense_model, fit, sparsity):
    model = dense_model()
    fit(model, MagnitudePruning(0.8))
    fit(model, MagnitudePruning(0.5))
    assert find_state(model).sparsity == 0.5
    assert sparsity(model) == pytest.approx(0.5, abs=0.05)


def test_masks_of_other_layers_are_kept(dense_model, fit):
    model = dense_model()
    fit(model, MagnitudePruning(0.75, include="a"))
    fit(model, MagnitudePruning(0.5, include="b"))
    assert (model.get_layer("a").get_weights()[0] == 0).mean() == 0.75
    assert (model.get_layer("b").get_weights()[0] == 0).mean() == 0.5


def test_pruning_that_begins_in_a_later_epoch_of_a_dense_training(
    dense_model, fit, zeros, recorder
):
    model, recorder = dense_model(), recorder()
    fit(model, epochs=3)
    fit(model, MagnitudePruning(0.8, end=0.8), recorder, epochs=6, initial_epoch=3)
    assert recorder.sparsities[0] == 0.0
    assert zeros(model) == round(0.8 * TOTAL)
    with pytest.raises(ValueError, match="end at step 12, but this training of a dense model"):
        fit(dense_model(), MagnitudePruning(0.8, end=12), epochs=6, initial_epoch=3)


def test_weights_of_a_model_that_was_never_pruned_reset_the_state(tmp_path, dense_model, fit):
    model = dense_model()
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "dense.weights.h5")
    fit(model, MagnitudePruning(0.75))
    model.load_weights(tmp_path / "dense.weights.h5")
    assert find_state(model).sparsity == 0.0
    apply_masks(model)


def test_masks_of_another_architecture(dense_model, fit):
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    store = {}
    find_state(model).save_own_variables(store)
    other = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="do not fit this model"):
        attach_state(other).load_own_variables(store)
    restored = attach_state(dense_model(seed=3))
    restored.load_own_variables(store)
    assert restored.sparsity == 0.75
    assert restored.step == 3 * STEPS


def test_zeros_of_a_loaded_model_stay(tmp_path, dense_model, fit, sparsity):
    model = dense_model()
    fit(model, MagnitudePruning(0.7))
    model.save(tmp_path / "pruned.keras")
    zero = [w == 0 for w in model.get_weights() if w.ndim > 1]

    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    history = fit(loaded, MagnitudePruning(0.8, begin=0.4), epochs=4).history
    assert history["sparsity"][0] == pytest.approx(0.7, abs=0.01)
    assert history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    kernels = [w for w in loaded.get_weights() if w.ndim > 1]
    assert all((now[was] == 0).all() for was, now in zip(zero, kernels, strict=True))

    # More zeros than are asked for are opened.
    looser = keras.models.load_model(tmp_path / "pruned.keras")
    fit(looser, MagnitudePruning(0.5))
    assert sparsity(looser) == pytest.approx(0.5, abs=0.01)

    # Unless somebody says that the model is dense.
    dense = keras.models.load_model(tmp_path / "pruned.keras")
    detach_state(dense)
    assert fit(dense, MagnitudePruning(0.7, begin=0.9, end=1.0)).history["sparsity"][0] < 0.1


def test_initial_zeros_are_no_masks(compiled, fit):
    keras.utils.set_random_seed(0)
    model = compiled(
        keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(8, kernel_initializer="identity", name="identity"),
                layers.Dense(8, kernel_initializer="zeros", activation="tanh", name="zeros"),
                layers.Dense(2, name="logits"),
            ]
        )
    )
    history = fit(model, MagnitudePruning(0.5, begin=0.9, end=1.0)).history
    assert history["sparsity/identity"][0] == history["sparsity/zeros"][0] == 0

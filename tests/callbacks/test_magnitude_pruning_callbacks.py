"""The callback beside others, and what it leaves behind."""

import keras
import numpy as np
import pytest

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import apply_masks, attach_state, detach_state, find_state
from tfcompress.pruning.enforcement import MaskConstraint

STEPS = 8


@pytest.mark.parametrize("pruning_first", [True, False])
def test_early_stopping_restores_sparse_weights(pruning_first, dense_model, fit, sparsity):
    model = dense_model()
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=2, restore_best_weights=True, start_from_epoch=0
    )
    pruning = MagnitudePruning(0.75, end=2 * STEPS)
    callbacks = [pruning, stop] if pruning_first else [stop, pruning]
    history = fit(model, *callbacks, epochs=8)
    assert len(history.history["loss"]) < 8
    assert sparsity(model) == 0.75
    assert apply_masks(model).sparsity == 0.75


def test_two_callbacks_that_prune_one_model_are_refused(dense_model, fit, sparsity):
    model = dense_model()
    before = model.get_weights()
    first, second = MagnitudePruning(0.5, include="a"), MagnitudePruning(0.8, include="b")
    with pytest.raises(ValueError, match=r"Two callbacks prune the model 'sequential.*by layer go"):
        fit(model, first, second)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # What the refused training left behind is no hindrance to the next.
    fit(model, second)
    fit(model, first)
    assert np.mean(model.get_layer("b").get_weights()[0] == 0) == pytest.approx(0.8, abs=0.01)


def test_a_training_that_stops_early_is_still_pruned(caplog, dense_model, fit, sparsity):
    model = dense_model()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    with caplog.at_level("WARNING"):
        fit(model, MagnitudePruning(0.75, end=1.0), stop)
    assert sparsity(model) == 0.75
    assert "before pruning ended at step 24" in caplog.text


def test_averaged_weights_are_sparse_in_validation_and_in_checkpoints(
    dense_model, fit, sparsity, data, recorder
):
    model, recorder = dense_model(optimizer=keras.optimizers.Adam(0.01, use_ema=True)), recorder()
    x, y = data(1)
    fit(
        model,
        MagnitudePruning(0.75, schedule="constant", begin=4, end=8),
        keras.callbacks.SwapEMAWeights(),
        recorder,
        validation_data=(x, y),
    )
    assert min(recorder.validation) == 0.75
    assert sparsity(model) == 0.75


def test_every_batch_checkpoint_is_sparse(tmp_path, dense_model, fit, sparsity):
    model = dense_model()
    save = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.weights.h5", save_freq=3, save_weights_only=True
    )
    fit(model, MagnitudePruning(0.75, schedule="constant"), save)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        other = dense_model()
        other.optimizer.build(other.trainable_variables)
        other.load_weights(file)
        assert sparsity(other) == 0.75


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_bar_shows_the_sparsity(capsys, verbose, dense_model, fit):
    fit(dense_model(), MagnitudePruning(0.75), epochs=2, verbose=verbose)
    assert "sparsity: 0.7500" in capsys.readouterr().out


def test_users_constraints_run_first_and_come_back(dense_model, fit):
    model = dense_model()
    own = keras.constraints.NonNeg()
    kernel = model.get_layer("a").kernel
    kernel.constraint = own
    fit(model, MagnitudePruning(0.5))
    assert kernel.constraint is own
    assert (np.asarray(kernel) >= 0).all()
    assert model.get_layer("b").kernel.constraint is None


def test_a_later_plain_fit_is_free_again(dense_model, fit, sparsity):
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    fit(model, epochs=1)
    # Units that no input activates get no gradient and keep their zeros.
    assert sparsity(model) < 0.4


def test_the_model_stays_what_it_was(tmp_path, dense_model, fit, data):
    model, plain = dense_model(), dense_model()
    paths = [w.path for w in model.weights]
    fit(model, MagnitudePruning(0.75))
    assert [w.path for w in model.weights] == paths
    assert len(model.weights) == len(plain.weights)
    assert len(model.layers) == len(plain.layers)
    assert model.count_params() == plain.count_params()
    assert "train_step" not in vars(model)
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    x, _ = data()
    np.testing.assert_array_equal(model.predict(x, verbose=0), copied.predict(x, verbose=0))


def test_files_load_in_plain_keras(tmp_path, dense_model, fit, data, run_python):
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    x, _ = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x, verbose=0))
    script = f"""
        import sys, warnings
        sys.modules["tfcompress"] = None
        warnings.simplefilter("error")
        import keras, numpy as np
        folder = {str(tmp_path)!r}
        model = keras.models.load_model(folder + "/model.keras")
        x, y = np.load(folder + "/x.npy"), np.load(folder + "/y.npy")
        np.testing.assert_array_equal(model.predict(x, verbose=0), y)
        assert model.optimizer.iterations == 24
        for weight in model.weights:
            weight.assign(weight * 0)
        model.load_weights(folder + "/model.weights.h5")
        np.testing.assert_array_equal(model.predict(x, verbose=0), y)
    """
    run_python(script, "-W", "error::UserWarning")


def test_an_exception_leaves_no_double_constraint(dense_model, fit, kill, killed):
    model = dense_model()
    own = keras.constraints.NonNeg()
    model.get_layer("a").kernel.constraint = own
    for _ in range(2):
        with pytest.raises(killed):
            fit(model, MagnitudePruning(0.5), kill(5))
    chained = model.get_layer("a").kernel.constraint
    assert isinstance(chained, MaskConstraint)
    assert chained.inner is own
    fit(model, MagnitudePruning(0.5))
    assert model.get_layer("a").kernel.constraint is own


def test_state(dense_model, fit):
    model = dense_model()
    assert find_state(model) is None
    pruning = MagnitudePruning(0.75)
    with pytest.raises(RuntimeError, match="has no model yet"):
        _ = pruning.state
    fit(model, pruning)
    state = find_state(model)
    assert state is pruning.state
    assert state.step == 3 * STEPS
    assert [mask.name for mask in state.masks] == ["a/kernel", "b/kernel", "logits/kernel"]
    for mask in state.masks:
        np.testing.assert_array_equal(mask.numpy(), np.asarray(mask.variable) != 0)
        assert mask.pruned == (~mask.numpy()).sum()
        assert state.mask_for(mask.variable) is mask
    assert state.mask_for(model.get_layer("a").bias) is None
    assert attach_state(model) is state


def test_apply_masks_finds_weights_that_grew_back(dense_model, fit, sparsity):
    model = dense_model()
    assert apply_masks(model) is None
    fit(model, MagnitudePruning(0.75))
    assert apply_masks(model).sparsity == 0.75
    fit(model, epochs=1)
    with pytest.raises(ValueError, match=r"pruned weights are not zero any more \(a/kernel: \d+"):
        apply_masks(model)
    apply_masks(model, repair=True)
    assert sparsity(model) == 0.75
    detach_state(model)
    assert find_state(model) is None
    assert apply_masks(model) is None

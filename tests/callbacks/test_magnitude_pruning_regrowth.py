"""Pruned weights that are trained along and come back (dynamic pruning with feedback)."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import apply_masks, find_state

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 4))).astype("float32")
RATE = 0.3


def linear(optimizer=None, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, use_bias=False, name="dense")])
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse", **arguments)
    return model


def train(model, *callbacks):
    model.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=list(callbacks))
    return np.asarray(model.get_layer("dense").kernel)


def feedback(weight, exchanges):
    """Lin et al. 2020, algorithm 1: half of the weights, chosen anew before some of the steps."""
    dense, kept, back = weight.astype("float64"), np.ones(weight.shape, bool), 0
    for step in range(12):
        if step < exchanges:
            order = np.argsort(np.abs(dense), axis=None)
            new = np.ones(weight.size, bool)
            new[order[: weight.size // 2]] = False
            new = new.reshape(weight.shape)
            back += int((new & ~kept).sum())
            kept = new
        x, y = (np.split(a, 4)[step % 4] for a in (X, Y))
        dense -= RATE * 2.0 / y.size * x.T @ (x @ np.where(kept, dense, 0) - y)
    return np.where(kept, dense, 0), back


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"jit_compile": True},
        {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))},
    ],
    ids=["graph", "jit", "loss_scale"],
)
def test_weights_come_back_as_in_the_paper(arguments):
    model = linear(**arguments)
    expected, back = feedback(np.asarray(model.get_layer("dense").kernel), exchanges=9)
    pruning = MagnitudePruning(0.5, "constant", end=1, frequency=1, regrow_until=8)
    kernel = train(model, pruning)
    assert back > 0
    np.testing.assert_allclose(kernel, expected, atol=1e-4)
    assert apply_masks(model).sparsity == 0.5
    assert find_state(model).masks[0].dense is None


def test_without_regrowth_pruned_weights_stay_pruned():
    model = linear()
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(np.asarray(model.weights[0]) == 0)
    )
    train(model, MagnitudePruning(0.5, end=0.75, frequency=1), look)
    assert all(np.all(later[before]) for before, later in itertools.pairwise(seen))


@pytest.mark.parametrize(
    "arguments",
    [
        {"sparsity": 0.8, "criterion": "lamp"},
        {"sparsity": 0.8, "scope": "uniform"},
        {"pattern": "2:4"},
        {"sparsity": 0.5, "pattern": "1x2"},
        {"parameters": 200},
    ],
    ids=["lamp", "uniform", "2:4", "blocks", "parameters"],
)
def test_what_is_asked_for_is_reached(arguments, dense_model, fit, sparsity):
    model = dense_model(optimizer=keras.optimizers.Adam(0.02))
    pruning = MagnitudePruning(end=0.3, frequency=2, regrow_until=0.9, **arguments)
    history = fit(model, pruning, epochs=4).history
    reached = pruning.reached
    assert reached.reached == pytest.approx(reached.asked, rel=0.02)
    assert history["sparsity"][-1] == pytest.approx(sparsity(model))
    assert history["sparsity"][2:] == history["sparsity"][-1:] * 2
    if arguments.get("pattern") == "2:4":
        kernel = np.asarray(model.get_layer("a").kernel).T.reshape(-1, 4)
        assert ((kernel != 0).sum(axis=1) == 2).all()


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, dense_model, fit, kill, killed):
    def callbacks():
        return [
            MagnitudePruning(0.8, end=0.2, frequency=3, regrow_until=0.9),
            keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        ]

    whole = dense_model()
    fit(whole, callbacks()[0], epochs=4)
    with pytest.raises(killed):
        fit(dense_model(), *callbacks(), kill(19), epochs=4)
    resumed = dense_model(seed=7)
    fit(resumed, *callbacks(), epochs=4)
    for expected, weight in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_plan_and_the_config_tell(dense_model):
    pruning = MagnitudePruning(0.8, regrow_until=0.9)
    assert MagnitudePruning.from_config(pruning.get_config()).regrow_until == 0.9
    row = tfc.plan(dense_model(), pruning).rows[0]
    assert row.actions["prune"]["regrow_until"] == 0.9


def test_what_cannot_be(dense_model, fit):
    with pytest.raises(ValueError, match="take 'magnitude' or 'lamp'"):
        MagnitudePruning(0.5, criterion="taylor", regrow_until=0.9)
    with pytest.raises(ValueError, match="`regrow_until` must be a training step"):
        MagnitudePruning(0.5, regrow_until=1.5)
    for moment in (0.3, 400):
        with pytest.raises(ValueError, match=f"Received: regrow_until={moment}"):
            fit(dense_model(), MagnitudePruning(0.5, end=0.5, regrow_until=moment))

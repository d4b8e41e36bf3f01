"""Criteria that look at the gradients of the training's own steps."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import Movement, Taylor, attach_state, find_state, prunable_weights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.normal(size=(32, 4)).astype("float32")
STEPS = 4


def linear(optimizer=None, **arguments):
    """One layer whose weights do not move, so that its gradients are known."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, use_bias=False, name="dense")])
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", **arguments)
    return model


def products(model):
    """Weight times gradient of the mean squared error, batch by batch."""
    weight = np.asarray(model.get_layer("dense").kernel)
    for x, y in zip(np.split(X, STEPS), np.split(Y, STEPS)):
        yield weight * (2.0 / y.size * x.T @ (x @ weight - y))


class Evidence(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        (mask,) = find_state(self.model).masks
        self.value = keras.ops.convert_to_numpy(mask.evidence)


def evidence_of(model, criterion):
    look = Evidence()
    callback = MagnitudePruning(0.5, criterion=criterion, end=1.0, frequency=100)
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback, look])
    return look.value


@pytest.mark.parametrize(
    "arguments",
    [
        {"jit_compile": True, "steps_per_execution": 2},
        {
            "run_eagerly": True,
            "optimizer": keras.optimizers.SGD(0.0, gradient_accumulation_steps=2),
        },
        {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))},
    ],
    ids=["jit_executions", "eager_accumulation", "loss_scale"],
)
def test_movement_adds_up_every_step(arguments):
    # The last update comes before the last steps that run together, and halves the weights.
    together = arguments.get("steps_per_execution", 1)
    model = linear(**arguments)
    expected = list(products(model))
    found = evidence_of(model, Movement())
    kept = np.asarray(model.get_layer("dense").kernel) != 0
    before = -sum(expected[:-together])
    assert kept.sum() == 12
    np.testing.assert_allclose(found[~kept], before[~kept], rtol=1e-3, atol=1e-6)
    assert before[kept].min() >= before[~kept].max() - 1e-6


def test_taylor_averages_the_squares():
    model = linear(run_eagerly=True)
    expected = np.zeros((6, 4))
    for product in list(products(model))[:-1]:
        expected = 0.9 * expected + 0.1 * product**2
    evidence_of(model, Taylor(momentum=0.9))
    kept = np.asarray(model.get_layer("dense").kernel) != 0
    assert expected[kept].min() >= expected[~kept].max()


def test_the_optimizer_gets_its_method_back():
    model = linear(run_eagerly=True)
    evidence_of(model, "movement")
    assert "apply" not in vars(model.optimizer)
    assert find_state(model).masks[0].evidence is None


def test_a_schedule_that_prunes_before_the_first_gradient():
    callback = MagnitudePruning(0.5, criterion="taylor", schedule="constant", frequency=1)
    with pytest.raises(ValueError, match=r"no training step has given it any yet.*begin=0.1"):
        linear().fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])


def test_evidence_is_saved_with_the_masks():
    model = linear()
    state = attach_state(model, prunable_weights(model)[0])
    state.gather(state.masks)
    value = RNG.normal(size=(6, 4)).astype("float32")
    state.masks[0].evidence.assign(value)
    store = {}
    state.save_own_variables(store)
    other = attach_state(linear())
    other.load_own_variables(store)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(other.masks[0].evidence), value)
    other.drop_training_values()
    store = {}
    other.save_own_variables(store)
    assert not [key for key in store if key.startswith("evidence")]


def test_arguments():
    with pytest.raises(ValueError, match="Received: momentum=1"):
        Taylor(momentum=1)
    assert Taylor.from_config(Taylor(0.5).get_config()) == Taylor(0.5) != Taylor()

"""Arguments that are refused, and configs."""

import copy

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import ConstantSparsity, PolynomialDecay


def test_an_unknown_number_of_steps_needs_steps(dense_model, unknown_length):
    model = dense_model()
    with pytest.raises(ValueError, match="length is unknown"):
        model.fit(
            unknown_length(), epochs=3, shuffle=False, verbose=0, callbacks=[MagnitudePruning(0.75)]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"at least 0 and below 1. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": 80}, "Received: sparsity=80"),
        ({"sparsity": "0.8"}, "Received: sparsity='0.8'"),
        ({"sparsity": True}, "Received: sparsity=True"),
        ({"sparsity": float("nan")}, "Received: sparsity=nan"),
        ({"schedule": "polinomial"}, "Did you mean 'polynomial'"),
        ({"schedule": None}, "of type NoneType"),
        ({"sparsity": 0.3, "schedule": PolynomialDecay(0.5)}, "initial_sparsity=0.5"),
        ({"scope": "globl"}, "Did you mean 'global'"),
        ({"scope": "layer"}, "'global', 'uniform', 'erdos-renyi-kernel'.*Received: scope='layer'"),
        ({"frequency": 0}, "Received: frequency=0"),
        ({"frequency": 1.5}, "Received: frequency=1.5"),
        ({"begin": -1}, "Received: begin=-1"),
        ({"end": 1.2}, "Received: end=1.2"),
        ({"include": []}, "at least one layer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end": 25}, r"end after the training.*24 steps \(3 epochs of 8\)"),
        ({"begin": 24, "end": 30}, "begin after the training"),
        ({"begin": 0.7}, "end before it begins"),
        ({"include": "c"}, "`include` matches no layer"),
        ({"exclude": "logit"}, "Did you mean 'logits'"),
        (
            {"exclude": "Dense"},
            "Skipped: a/kernel, b/kernel, logits/kernel: excluded by 'Dense'; a/bias",
        ),
    ],
)
def test_bad_plans_are_refused_before_training(arguments, message, dense_model, fit):
    model = dense_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, MagnitudePruning(0.5, **arguments))
    for expected, weight in zip(before, model.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_models_that_cannot_be_pruned(compiled, fit):
    unbuilt = compiled(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="never built"):
        fit(unbuilt, MagnitudePruning(0.5))
    flat = keras.Sequential([keras.Input((8,)), layers.BatchNormalization(), layers.Softmax()])
    with pytest.raises(ValueError, match=r"no weights to prune.*normalization parameter"):
        fit(compiled(flat), MagnitudePruning(0.5))


def test_config_round_trip():
    pruning = MagnitudePruning(
        0.7, PolynomialDecay(0.1), 5, 0.9, 10, "uniform", [layers.Dense, "conv.*"], "logits"
    )
    config = copy.deepcopy(pruning.get_config())
    again = MagnitudePruning.from_config(config)
    assert again.get_config() == pruning.get_config()
    assert again.settings.schedule == PolynomialDecay(0.1)
    assert again.settings.include == ("Dense", "conv.*")
    assert MagnitudePruning(schedule=ConstantSparsity()).settings.schedule == ConstantSparsity()

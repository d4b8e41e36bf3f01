"""Wrappers of a training step come and go in any order."""

import keras
import pytest

from tfcompress.training_step import step_wrappers, unwrap_step, wrap_step


class Model(keras.Model):
    def train_step(self, data):
        return [data]


def named(name):
    return lambda step, data: [name, *step(data)]


@pytest.fixture
def model():
    return Model()


def test_the_last_one_is_the_outermost(model):
    inner, outer = named("inner"), named("outer")
    wrap_step(model, inner)
    wrap_step(model, outer)
    assert model.train_step(1) == ["outer", "inner", 1]
    assert step_wrappers(model) == (inner, outer)
    assert step_wrappers(Model()) == ()


@pytest.mark.parametrize("first", [0, 1])
def test_the_model_has_its_own_step_again(model, first):
    pair = [named("a"), named("b")]
    for wrapper in pair:
        wrap_step(model, wrapper)
    unwrap_step(model, pair[first])
    assert model.train_step(1) == ["ba"[first], 1]
    unwrap_step(model, pair[first])
    unwrap_step(model, pair[1 - first])
    assert "train_step" not in vars(model)
    assert model.train_step(1) == [1]


def test_a_step_that_others_set(model):
    def own(data):
        return ["own", data]

    model.train_step = own
    wrapper = named("a")
    wrap_step(model, wrapper)
    assert model.train_step(1) == ["a", "own", 1]
    unwrap_step(model, wrapper)
    assert model.train_step is own


def test_others_who_wrap_it_later(model):
    wrapper = named("a")
    wrap_step(model, wrapper)
    ours = model.train_step
    model.train_step = theirs = lambda data: ["theirs", *ours(data)]
    unwrap_step(model, wrapper)
    assert model.train_step is theirs
    assert model.train_step(1) == ["theirs", 1]

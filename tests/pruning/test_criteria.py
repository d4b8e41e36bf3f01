"""Criteria score weights; the lowest scores are pruned."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.pruning import LayerAdaptiveMagnitude, Magnitude, RandomScore, Units
from tfcompress.pruning.configured import serialize
from tfcompress.pruning.settings import get_criterion as get

RNG = np.random.default_rng(0)


def scores(criterion, weight, mask=None, index=0, members=1, **evidence):
    """Scores of a weight whose units are `members` entries that follow each other."""
    kept = np.ones(weight.shape, bool) if mask is None else mask
    units = Units(
        weights=keras.ops.convert_to_tensor(np.reshape(weight, (-1, members))),
        kept=keras.ops.convert_to_tensor(np.reshape(kept, (-1, members)).any(axis=1)),
        index=index,
        **evidence,
    )
    found = keras.ops.convert_to_numpy(criterion.scores(units))
    return found.reshape(weight.shape) if members == 1 else found


def lamp_by_definition(weight):
    flat = weight.reshape(-1).astype("float64")
    above = [np.sum(flat[np.abs(flat) >= abs(w)] ** 2) for w in flat]
    return (flat**2 / above).reshape(weight.shape)


def test_lamp_is_equation_4():
    weight = RNG.normal(size=(3, 3, 4, 5)).astype("float32")
    found = scores(LayerAdaptiveMagnitude(), weight)
    np.testing.assert_allclose(found, lamp_by_definition(weight), rtol=1e-4)
    assert found.max() == pytest.approx(1.0)


def test_lamp_leaves_out_what_is_pruned():
    weight = RNG.normal(size=(40,)).astype("float32")
    mask = RNG.random(40) < 0.5
    found = scores(LayerAdaptiveMagnitude(), weight, mask)
    np.testing.assert_allclose(found, lamp_by_definition(weight * mask), rtol=1e-4)
    assert (found[~mask] == 0).all()


def test_lamp_of_zeros_is_zero():
    assert (scores(LayerAdaptiveMagnitude(), np.zeros((2, 3), "float32")) == 0).all()


@pytest.mark.parametrize(("norm", "expected"), [(1, [1.5, 3.5]), (2, [2.5**0.5, 12.5**0.5])])
def test_norms_of_blocks(norm, expected):
    weight = np.array([[1.0, -2.0], [-3.0, 4.0]], "float32")
    np.testing.assert_allclose(scores(Magnitude(norm), weight, members=2), expected, rtol=1e-6)
    np.testing.assert_array_equal(scores(Magnitude(norm), weight), np.abs(weight))


def test_lamp_of_blocks_takes_their_squares():
    weight = RNG.normal(size=(20, 4)).astype("float32")
    norms = np.sqrt((weight**2).sum(axis=1))
    found = scores(LayerAdaptiveMagnitude(), weight, members=4)
    np.testing.assert_allclose(found, lamp_by_definition(norms), rtol=1e-4)


def test_random_scores_stay_the_same_and_differ_between_tensors():
    weight = np.ones((100,), "float32")
    first = scores(RandomScore(3), weight)
    np.testing.assert_array_equal(first, scores(RandomScore(3), weight))
    assert (first > 0).all()
    assert (first <= 1).all()
    assert not np.array_equal(first, scores(RandomScore(3), weight, index=1))


def test_names_configs_and_errors():
    assert get("magnitude") == Magnitude()
    assert get("lamp") == LayerAdaptiveMagnitude()
    assert get(serialize(RandomScore(5))) == RandomScore(5) != RandomScore()
    with pytest.raises(ValueError, match="Did you mean 'lamp'"):
        get("lampe")
    with pytest.raises(ValueError, match="criterion=3"):
        get(3)
    with pytest.raises(ValueError, match="norm=3"):
        Magnitude(norm=3)


def two_scales():
    """Two layers of the same size, one with weights a hundred times smaller."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="small")(inputs)
    model = keras.Model(inputs, layers.Dense(8, name="large")(x))
    model.get_layer("small").kernel.assign(0.01 * RNG.normal(size=(8, 8)))
    model.get_layer("large").kernel.assign(RNG.normal(size=(8, 8)))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
def test_callback_reaches_the_sparsity_by_each_criterion(criterion):
    model = two_scales()
    callback = tfc.callbacks.MagnitudePruning(0.5, criterion=criterion, begin=0, end=3, frequency=1)
    x = RNG.normal(size=(32, 8)).astype("float32")
    model.fit(x, x, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    zeros = {
        name: int(np.sum(np.asarray(model.get_layer(name).kernel) == 0))
        for name in ("small", "large")
    }
    assert sum(zeros.values()) == 64
    if criterion == "magnitude":
        # One threshold for both: nearly all of the small layer goes, but for one weight.
        assert zeros["small"] > 55
    else:
        assert 20 <= zeros["small"] <= 44
    copy = type(callback).from_config(callback.get_config())
    assert copy.settings.criterion == callback.settings.criterion


def test_plan_names_a_criterion_that_is_not_the_default():
    rows = tfc.plan(two_scales(), tfc.callbacks.MagnitudePruning(0.5, criterion="lamp")).rows
    kernels = [row.describe("prune") for row in rows if row.tensor.endswith("kernel")]
    assert kernels == ["sparsity 0.5, scope global, criterion LayerAdaptiveMagnitude()"] * 2

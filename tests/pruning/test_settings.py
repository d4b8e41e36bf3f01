"""Sparsities by layer, patterns and scopes through the callback, and the plan."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import NOfM


def zeros(model):
    return {
        layer.name: round(float((np.asarray(layer.kernel) == 0).mean()), 3)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def test_sparsities_by_name_expression_and_class(convnet, prune):
    model = convnet()
    prune(model, sparsity={"conv1": 0.5, "re:dens.*": 0.75, "Conv2D": 0.25})
    assert zeros(model) == {"conv1": 0.5, "conv2": 0.25, "dense": 0.75, "logits": 0.0}


def test_a_default_is_for_the_rest(convnet, prune):
    model = convnet()
    prune(model, sparsity={"default": 0.5, "logits/kernel": 0.0, layers.Conv2D: 0.75})
    assert zeros(model) == {"conv1": 0.75, "conv2": 0.75, "dense": 0.5, "logits": 0.0}


def test_entries_that_name_nothing(convnet, prune):
    with pytest.raises(ValueError, match=r"`sparsity` matches no layer.*Did you mean .*'conv1'"):
        prune(convnet(), sparsity={"conv": 0.5})
    with pytest.raises(ValueError, match=r"`scope` matches no layer.*Did you mean 'logits'"):
        prune(convnet(), scope={"logit": 0.5})
    with pytest.raises(ValueError, match="leave out `include`"):
        prune(convnet(), sparsity={"conv1": 0.5}, include="conv1")


class Sensitivity:
    """Stands for what `tfcompress.sensitivity` returns."""

    def sparsities(self, target):
        return {"conv1": target / 2, "conv2": target, "dense": target / 2}


def test_a_scope_by_layer_is_scaled_to_the_goal(convnet, prune):
    model = convnet()
    callback = prune(model, sparsity=0.6, scope=Sensitivity())
    found = zeros(model)
    assert found["conv2"] == pytest.approx(2 * found["conv1"], abs=0.01)
    assert found["logits"] == 0.0
    assert callback.reached.sparsity == pytest.approx(0.6, abs=1e-3)
    assert callback.get_config()["scope"] == {"conv1": 0.3, "conv2": 0.6, "dense": 0.3}


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "random"])
@pytest.mark.parametrize(
    ("pattern", "sparsity", "expected"),
    [("2:4", None, 880), ("1:4", None, 1320), ("1x4", 0.75, 1320), ((2, 4), 0.5, 880)],
)
def test_patterns_reach_the_exact_number(convnet, prune, criterion, pattern, sparsity, expected):
    model = convnet()
    prune(model, pattern=pattern, sparsity=sparsity, criterion=criterion)
    kernels = [np.asarray(w) for w in model.get_weights() if w.ndim > 1]
    assert sum(int((kernel == 0).sum()) for kernel in kernels) == expected
    if pattern == "2:4":
        for kernel in kernels:
            groups = np.moveaxis(kernel, -1, 0).reshape(-1, 4)
            assert ((groups != 0).sum(axis=1) == 2).all()


def test_2_of_4_is_kept_on_save_load_and_resume(convnet, prune, tmp_path):
    model = convnet()
    callback = prune(model, pattern="2:4")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    prune(again, pattern="2:4", epoch=1)
    for first, second in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(first, second)
    copy = MagnitudePruning.from_config(callback.get_config())
    assert copy.settings.pattern == NOfM(2, 4)
    assert copy.get_config() == callback.get_config()


def test_channels_of_the_outputs_stay(convnet, prune):
    model = convnet()
    callback = prune(model, pattern="channel", scope="uniform")
    assert zeros(model) == {"conv1": 0.5, "conv2": 0.5, "dense": 0.5, "logits": 0.0}
    kernel = np.asarray(model.get_layer("conv2").kernel)
    assert (kernel == 0).all(axis=(0, 1, 2)).sum() == 8
    reasons = {entry.name: entry.reason for entry in callback.skipped}
    assert reasons["logits/kernel"] == "pattern channel: its channels are outputs of the model"


def test_the_plan_tells_pattern_goal_and_reasons(convnet):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="stem")(inputs)
    x = layers.Conv2D(8, 3, name="conv")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    rows = {row.tensor: row for row in tfc.plan(model, MagnitudePruning(pattern="2:4")).rows}
    assert rows["conv/kernel"].describe("prune") == "sparsity 0.5, scope global, pattern 2:4"
    assert rows["stem/kernel"].skipped["prune"] == (
        "pattern 2:4: 3 inputs are no whole number of groups of 4"
    )
    rows = {row.tensor: row for row in tfc.plan(convnet(), MagnitudePruning(bytes=900)).rows}
    assert rows["conv1/kernel"].describe("prune") == "bytes 900, scope global"
    by_layer = MagnitudePruning({"conv1": 0.5})
    rows = {row.tensor: row for row in tfc.plan(convnet(), by_layer).rows}
    assert rows["conv1/kernel"].describe("prune") == "sparsity 0.5"
    assert rows["conv2/kernel"].skipped["prune"] == "not in `sparsity`"

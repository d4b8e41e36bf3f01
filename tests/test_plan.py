"""The plan: what happens to every tensor, and why nothing does."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning, StructuredPruning
from tfcompress.plan import Plan


@pytest.fixture(scope="module")
def model():
    """Convolution, batch normalization, ReLU, a sparsemax that stays float, and a nested head."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Activation("sparsemax", name="sparsemax")(x)
    head = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Flatten(name="flat"), layers.Dense(2, name="out")],
        name="head",
    )
    return keras.Model(inputs, head(x), name="net")


def rows(plan):
    return {(row.kind, row.tensor): row for row in plan.rows}


def test_one_row_for_every_weight_and_activation(model):
    plan = tfc.plan(model, [MagnitudePruning(0.8), "int8"])
    by_name = rows(plan)
    weights = {name for kind, name in by_name if kind == "weight"}
    assert weights == {
        "conv/kernel",
        "bn/gamma",
        "bn/beta",
        "bn/moving_mean",
        "bn/moving_variance",
        "head/out/kernel",
        "head/out/bias",
    }
    activations = {name for kind, name in by_name if kind == "activation"}
    assert activations == {"image", "conv", "bn", "relu", "sparsemax", "head/flat", "head/out"}
    assert by_name["weight", "conv/kernel"].actions == {
        "prune": {"sparsity": 0.8, "scope": "global"},
        "quantize": {"bits": 8, "scale": "per channel"},
    }
    assert "bias" in by_name["weight", "head/out/bias"].skipped["prune"]
    assert "sorts" in by_name["activation", "sparsemax"].skipped["quantize"]
    assert by_name["activation", "conv"].actions == {"quantize": {"fused into": "bn"}}


def test_every_tensor_has_an_action_or_a_reason_for_each_technique(model):
    for row in tfc.plan(model, [MagnitudePruning(0.8), "int8"]).rows:
        wanted = {"prune", "quantize"} if row.kind == "weight" else {"quantize"}
        assert set(row.actions) | set(row.skipped) == wanted
        assert all(row.skipped.values())


def test_plans_compare_and_round_trip(model):
    plan = tfc.plan(model, "int8")
    assert plan == tfc.plan(model, tfc.Scheme("int8"))
    assert plan != tfc.plan(model, MagnitudePruning(0.5))
    assert Plan.from_yaml(plan.to_yaml()) == plan


def test_table_and_frame(model):
    plan = tfc.plan(model, ["int8", MagnitudePruning(0.5)])
    text = str(plan)
    assert "conv/kernel" in text
    assert "sparsity 0.5" in text
    frame = plan.to_frame()
    assert len(frame) == len(plan.rows)
    assert {"tensor", "quantize", "prune"} <= set(frame.columns)
    assert "<table" in plan._repr_html_()


def test_recipe_dict(model):
    recipe = {
        "version": 1,
        "name": "r",
        "data": {"source": "digits"},
        "model": {"architecture": "digits_cnn"},
        "train": {"epochs": 1},
        "prune": {"sparsity": 0.8},
        "quantize": {},
    }
    assert tfc.plan(model, recipe) == tfc.plan(model, [MagnitudePruning(0.8), "int8"]) or tfc.plan(
        model, recipe
    ).techniques == ["prune", "quantize"]


class Branching(keras.Model):
    """Cannot be traced."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, name="hidden")

    def build(self, shape):
        self.hidden.build(shape)

    def call(self, x):
        return self.hidden(x) if float(keras.ops.sum(x)) > 0 else x


def test_untraceable_model_is_planned_with_its_reason():
    model = Branching()
    model.build((None, 4))
    plan = tfc.plan(model, [MagnitudePruning(0.5), "int8"])
    kernel = rows(plan)["weight", "hidden/kernel"]
    assert "cannot be traced" in kernel.skipped["quantize"]
    assert kernel.actions["prune"]["sparsity"] == 0.5
    with pytest.raises(ValueError, match="cannot be traced"):
        tfc.quantize_aware(model)


def test_bad_input(model):
    with pytest.raises(TypeError, match="recipe"):
        tfc.plan(model, 3)
    with pytest.raises(ValueError, match="Did you mean 'int8'"):
        tfc.plan(model, "int88")
    with pytest.raises(ValueError, match="never built"):
        tfc.plan(keras.Sequential([layers.Dense(2)]), "int8")
    with pytest.raises(ValueError, match="Expected a Keras 3 model"):
        tfc.plan(np.ones(3), "int8")


def test_sections_of_a_recipe_are_enough():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    frame = tfc.plan(model, {"prune": {"sparsity": 0.5}, "quantize": {"scheme": "int8"}}).to_frame()
    assert {"prune", "quantize"} <= set(frame.columns)
    with pytest.raises(ValueError, match="sparsity"):
        tfc.plan(model, {"prune": {"sparsty": 0.5}})


def test_channels_and_layers_that_may_go_are_in_the_plan():
    x = inputs = keras.Input((8, 8, 4), name="image")
    for number in (1, 2):
        y = layers.Conv2D(4, 3, padding="same", name=f"conv{number}")(x)
        x = layers.Add(name=f"add{number}")([x, layers.ReLU()(y)])
    x = layers.Dense(8, name="inner")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))

    by_name = rows(tfc.plan(model, StructuredPruning(macs=0.5)))
    assert by_name["weight", "inner/kernel"].actions == {"shrink": {"macs": 0.5, "of": "inner (8)"}}
    joined = "Add 'add1' joins them to 'image', which stays"
    assert by_name["weight", "conv1/kernel"].skipped == {"shrink": joined}
    assert by_name["weight", "out/bias"].skipped == {"shrink": "output 'out' of the model"}

    recipe = {
        "remove_layers": {"n": 1},
        "shrink": {"macs": 0.5, "criterion": "taylor"},
        "prune": {"sparsity": 0.5},
    }
    plan = tfc.plan(model, recipe)
    assert set(plan.techniques) == {"remove_layers", "shrink", "prune"}
    by_name = rows(plan)
    assert by_name["weight", "conv2/bias"].actions["remove_layers"] == {
        "n": 1,
        "perhaps with": "add2",
    }
    assert "not in a part" in by_name["weight", "out/kernel"].skipped["remove_layers"]
    assert by_name["weight", "inner/kernel"].actions.keys() == {"shrink", "prune"}
    assert Plan.from_yaml(plan.to_yaml()) == plan

"""What is found to be removable."""

import keras
import pytest
from keras import layers

from tfcompress.graph import flatten
from tfcompress.restructure.units import find_units


def names(model, **settings):
    return [unit.name for unit in find_units(flatten(model), **settings)]


def test_blocks_with_a_projection_or_a_stride_are_not_removable(resnet):
    assert names(resnet()) == ["b1_add", "b2_add", "b4_add", "b5_add"]


def test_a_block_knows_its_layers_its_weights_and_its_multiplications(resnet):
    model = resnet()
    unit = find_units(flatten(model))[0]
    assert unit.layers == ["b1_a", "b1_bn", "b1_b"]
    expected = sum(model.get_layer(name).count_params() for name in unit.layers)
    assert unit.parameters == expected == 2 * (9 * 4 * 4 + 4) + 4 * 4
    assert unit.macs == 2 * 64 * 9 * 4 * 4


def test_attention_and_feed_forward_parts_of_a_transformer_are_blocks(transformer):
    found = find_units(flatten(transformer()))
    assert [unit.kind for unit in found] == ["block"] * 6
    assert found[0].layers == ["norm1", "attention1"]
    assert found[1].layers == ["up1", "down1"]
    # The sum of embeddings and positions is no block: nothing is multiplied in it.
    assert all("embedding" not in unit.layers for unit in found)


def test_without_residual_blocks_layers_that_keep_the_shape_are_found():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    for name in ("second", "third"):
        x = layers.Conv2D(4, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(5, "relu", name="hidden")(x)
    x = layers.Dense(5, "relu", name="square")(x)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    # `logits` keeps the shape too, but it is the output.
    found = find_units(flatten(model))
    assert [unit.name for unit in found] == ["second", "third", "square"]
    assert found[0].layers == ["second", "second_bn"]
    assert found[0].target.name == "second_relu"


def test_layers_inside_blocks_are_found_on_request(resnet):
    assert "b1_a" in names(resnet(), kinds="layers")


def test_excluded_parts_stay(resnet):
    model = resnet()
    assert names(model, exclude=["b1_add", "b2_.*"]) == ["b4_add", "b5_add"]
    assert names(model, exclude="b5_b") == ["b1_add", "b2_add", "b4_add"]
    with pytest.raises(ValueError, match=r"Did you mean 'b1_add'|b1_add"):
        names(model, exclude="b1_ad")


def test_a_network_without_removable_parts_says_so(tiny_cnn):
    with pytest.raises(ValueError, match="no residual block and no layer that keeps the shape"):
        names(tiny_cnn())
    with pytest.raises(ValueError, match="no residual block"):
        names(tiny_cnn(), kinds="blocks")
    with pytest.raises(ValueError, match="`units` must be one of"):
        names(tiny_cnn(), kinds="stages")


def test_blocks_of_nested_models_are_found():
    inner_inputs = keras.Input((4,))
    y = layers.Dense(4, "relu", name="inside")(inner_inputs)
    inner = keras.Model(inner_inputs, layers.Add(name="sum")([inner_inputs, y]), name="block")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="out")(inner(inputs)))
    assert names(model) == ["block/sum"]

"""Batch normalization folding, cross-layer equalization and absorption of biases."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.quantization.post_training import (
    BiasAbsorption,
    CrossLayerEqualization,
    quantize_post_training,
)
from tfcompress.quantization.post_training.batchnorm_folding import fold_batchnorms
from tfcompress.quantization.post_training.channel_pairs import channel_extremes


def sqnr(expected, seen):
    noise = np.square(expected - seen).sum()
    return 10 * np.log10(np.square(expected - expected.mean(0)).sum() / noise)


def answers(model, x):
    return keras.ops.convert_to_numpy(model(x))


def test_folding_keeps_what_a_model_computes_and_gives_biases(samples):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    shapes = (
        layers.Conv2D(6, 3, use_bias=False),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        layers.Conv2DTranspose(5, 3, strides=2),
        layers.Conv2D(6, 3, groups=3),
        layers.Dense(4, use_bias=False),
    )
    outputs = [layers.ReLU()(layers.BatchNormalization()(layer(inputs))) for layer in shapes]
    line = layers.Reshape((64, 3))(inputs)
    outputs.append(layers.BatchNormalization()(layers.DepthwiseConv1D(3)(line)))
    outputs.append(layers.BatchNormalization()(layers.Conv1D(4, 3, activation="relu")(line)))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    folded = fold_batchnorms(model)
    for expected, seen in zip(model(samples), folded(samples), strict=True):
        np.testing.assert_allclose(seen, expected, atol=2e-5)
    # The one behind an activation cannot fold.
    kinds = [type(layer).__name__ for layer in folded.layers]
    assert kinds.count("BatchNormalization") == 1
    assert all(layer.use_bias for layer in folded.layers if hasattr(layer, "use_bias"))


def test_folding_leaves_what_it_is_told_to_keep(chain, samples):
    model = chain()
    folded = fold_batchnorms(model, keep=["bn"])
    assert "bn" in [layer.name for layer in folded.layers]
    np.testing.assert_allclose(folded(samples), model(samples), atol=1e-5)


@pytest.mark.parametrize("ranges", ["activations", "weights"])
def test_equalization_changes_the_ranges_and_not_the_function(unequal, samples, ranges):
    model = unequal()
    folded = fold_batchnorms(model)
    outcome = CrossLayerEqualization(ranges=ranges).prepare(folded, {"image": samples})
    names = [row.layer for row in outcome.layers]
    assert names == [
        "conv → depthwise",
        "depthwise → pointwise",
        "pointwise → hidden",
        "hidden → head",
    ]
    first = outcome.layers[0].figures
    assert first["spread_before"] > 8
    assert first["spread_after"] < (1.01 if ranges == "activations" else 4)
    expected = answers(model, samples)
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(answers(folded, samples), expected, atol=tolerance)


def test_equalization_repairs_a_network_of_unequal_channels(chain, unequal, samples):
    expected = answers(chain(), samples)

    def distance(model, algorithms):
        done = quantize_post_training(model, "int8", samples, algorithms=algorithms)
        return sqnr(expected, answers(done.model, samples))

    ordinary = distance(chain(), [])
    assert distance(unequal(), []) < ordinary - 10
    assert distance(unequal(), ["cross_layer_equalization"]) > ordinary - 3


def test_relu6_is_not_scaled_across_its_limit(chain, samples):
    model = chain(activation="relu6")
    model.get_layer("bn").gamma.assign(np.linspace(0.2, 9.0, 8))
    folded = fold_batchnorms(model)
    _, _, high = channel_extremes(folded, {"image": samples})[0]
    assert (high == 6).any()
    assert (high < 5).any()
    CrossLayerEqualization().prepare(folded, {"image": samples})
    np.testing.assert_allclose(folded(samples), model(samples), atol=1e-4)
    _, _, after = channel_extremes(folded, {"image": samples})[0]
    assert after.min() > 2 * high.min()
    assert after.max() <= 6


def test_layers_that_are_read_twice_or_called_twice_are_left_alone():
    inputs = keras.Input((8, 8, 4))
    twice = layers.Conv2D(4, 1, name="twice")
    x = twice(twice(inputs))
    y = layers.Conv2D(4, 1, name="branch")(x)
    outputs = layers.Conv2D(4, 1, name="tanh", activation="tanh")(layers.Add()([x, y]))
    outputs = layers.Conv2D(2, 1, groups=2, name="grouped")(outputs)
    model = keras.Model(inputs, outputs)
    assert channel_extremes(model, {"input": np.ones((4, 8, 8, 4), "float32")}) == []


def test_absorption_lowers_what_never_falls_to_zero(chain, samples):
    model = chain()
    bias = model.get_layer("depthwise").bias
    bias.assign(bias + 40.0)
    folded = fold_batchnorms(model)
    expected = answers(model, samples)
    outcome = BiasAbsorption().prepare(folded, {"image": samples})
    skipped = [row.layer for row in outcome.layers if row.skipped]
    assert skipped == []
    pair, low, _ = channel_extremes(folded, {"image": samples})[1]
    assert pair.name == "depthwise → pointwise"
    np.testing.assert_allclose(low, 0, atol=1e-4)
    np.testing.assert_allclose(answers(folded, samples), expected, atol=1e-3)


def test_absorption_is_not_done_behind_padding(samples):
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, layers.Conv2D(2, 3, padding="same", name="second")(x))
    outcome = BiasAbsorption().prepare(model, {"image": samples})
    assert [row.skipped for row in outcome.layers] == ["zeros are padded between the layers"]
    assert "not first → second" in str(outcome)

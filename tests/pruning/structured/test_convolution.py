"""Convolutions of all kinds, and the layers with one value a channel behind them."""

import keras
import pytest
from keras import layers

IMAGE = (8, 8, 3)


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("stack", "shape", "groups"),
    [
        pytest.param(
            lambda: [
                layers.Conv2D(6, 3),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(8, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(5, activation="relu"),
                layers.Dense(4),
            ],
            IMAGE,
            3,
            id="conv-flatten-dense",
        ),
        pytest.param(
            lambda: [
                layers.Conv2D(6, 3, activation="sigmoid"),
                layers.Conv2D(8, 3, padding="same", activation="softplus"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4, activation="softmax"),
            ],
            IMAGE,
            2,
            id="activations-that-are-not-zero-at-zero",
        ),
        pytest.param(
            lambda: [
                layers.Conv2D(6, 3),
                layers.BatchNormalization(scale=False),
                layers.ReLU(),
                layers.Conv2D(8, 3),
                layers.BatchNormalization(center=False),
                layers.PReLU(shared_axes=[1, 2]),
                layers.GlobalMaxPooling2D(),
                layers.Dense(3),
            ],
            IMAGE,
            2,
            id="batchnorm-without-scale-and-prelu",
        ),
        pytest.param(
            lambda: [
                layers.SeparableConv2D(6, 3, depth_multiplier=2),
                layers.DepthwiseConv2D(3, depth_multiplier=2),
                layers.ReLU(),
                layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="swish"),
                layers.Conv2DTranspose(6, 3),
                layers.UpSampling2D(),
                layers.Conv2D(2, 1),
            ],
            IMAGE,
            3,
            id="separable-depthwise-transposed",
        ),
        pytest.param(
            lambda: [
                layers.Conv1D(6, 3, padding="causal"),
                layers.SeparableConv1D(6, 3),
                layers.DepthwiseConv1D(3),
                layers.Conv1DTranspose(6, 2),
                layers.MaxPooling1D(),
                layers.GlobalAveragePooling1D(),
                layers.Dense(2),
            ],
            (16, 3),
            3,
            id="1d",
        ),
        pytest.param(
            lambda: [
                layers.Conv3D(6, 2),
                layers.Conv3DTranspose(4, 2),
                layers.AveragePooling3D(2),
                layers.Flatten(),
                layers.Dense(2),
            ],
            (5, 5, 5, 2),
            2,
            id="3d",
        ),
        pytest.param(
            lambda: [
                layers.Conv2D(8, 3),
                layers.GroupNormalization(4),
                layers.Conv2D(6, 3),
                layers.GroupNormalization(-1),
                layers.Conv2D(6, 1),
                layers.UnitNormalization(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2),
            ],
            IMAGE,
            3,
            id="group-and-unit-normalization",
        ),
    ],
)
def test_shrinks_exactly(shrunk_exactly, stack, shape, groups):
    small = shrunk_exactly(sequential(shape, *stack()), groups)
    assert isinstance(small, keras.Sequential)


@pytest.mark.parametrize(
    ("groups", "filters", "left"),
    [
        # Many narrow groups go as a whole, with the channels that they read.
        (4, 12, {"groups": 2, "filters": 6}),
        (8, 8, {"groups": 4, "filters": 4}),
        # Of a few wide groups, each loses the same channels.
        (2, 12, {"groups": 2, "filters": 6}),
    ],
)
def test_grouped_convolutions(shrunk_exactly, groups, filters, left):
    model = sequential(
        IMAGE,
        layers.Conv2D(8, 3),
        layers.Conv2D(filters, 3, groups=groups, activation="relu", name="grouped"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )
    small = shrunk_exactly(model)
    layer = small.get_layer("grouped")
    assert {"groups": layer.groups, "filters": layer.filters} == left


def test_layer_normalization_couples_channels_that_need_not_stay_exact():
    import tfcompress as tfc

    model = sequential(
        (6, 4), layers.Dense(8, name="wide"), layers.LayerNormalization(), layers.Dense(2)
    )
    (pinned, _) = tfc.dependency_groups(model).pinned
    assert pinned.layer == "wide"
    assert "averages over them" in pinned.reason
    small = tfc.shrink(model, sparsity=0.5, round_to=1, exact=False, verbose=False)
    assert small.get_layer("wide").units == 4
    assert small.layers[1].gamma.shape == (4,)

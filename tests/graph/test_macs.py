"""Multiply-accumulate operations of models, counted by hand."""

import keras
import pytest
from keras import layers, ops

from tfcompress.graph.macs import count_macs


def count(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(*inputs) if len(inputs) > 1 else layer(inputs[0])
    return sum(count_macs(keras.Model(inputs, outputs)).values())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (lambda: layers.Dense(5), (7,), 7 * 5),
        (lambda: layers.Dense(5), (3, 7), 3 * 7 * 5),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 6)), (3, 4), 3 * 4 * 2 * 6),
        (lambda: layers.EinsumDense("...x,xy->...y", 6), (3, 4), 3 * 4 * 6),
        (lambda: layers.Conv2D(8, 3), (8, 8, 4), 36 * 9 * 4 * 8),
        (lambda: layers.Conv2D(8, 3, groups=4), (8, 8, 4), 36 * 9 * 1 * 8),
        (lambda: layers.Conv1D(8, 3, strides=2, padding="same"), (8, 4), 4 * 3 * 4 * 8),
        (lambda: layers.Conv3D(2, 3), (4, 4, 4, 3), 8 * 27 * 3 * 2),
        (lambda: layers.Conv2DTranspose(8, 3, strides=2), (5, 5, 4), 25 * 9 * 4 * 8),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 36 * 9 * 4 * 2),
        (lambda: layers.SeparableConv2D(8, 3), (8, 8, 4), 36 * (9 * 4 + 4 * 8)),
        (lambda: layers.LSTM(6), (10, 3), 10 * (3 * 24 + 6 * 24)),
        (lambda: layers.Bidirectional(layers.GRU(6)), (10, 3), 2 * 10 * (3 * 18 + 6 * 18)),
        (
            lambda: layers.ConvLSTM2D(2, 3, padding="same"),
            (5, 4, 4, 3),
            5 * 16 * (9 * 3 * 8 + 9 * 2 * 8),
        ),
        (lambda: layers.TimeDistributed(layers.Dense(5)), (3, 7), 3 * 7 * 5),
        (lambda: layers.Embedding(100, 8), (6,), 0),
        (lambda: layers.BatchNormalization(), (6, 6, 4), 0),
    ],
)
def test_one_layer(layer, shape, expected):
    assert count(layer(), shape) == expected


def test_attention_counts_projections_scores_and_values():
    # Query (6, 8), value (5, 8): 2 heads of 4 and 3.
    attention = layers.MultiHeadAttention(2, 4, value_dim=3)
    projections = 6 * 8 * 8 + 5 * 8 * 8 + 5 * 8 * 6 + 6 * 6 * 8
    assert count(attention, (6, 8), (5, 8)) == projections + 6 * 5 * 2 * 4 + 6 * 5 * 2 * 3


def test_products_of_tensors():
    a, b = keras.Input((6, 8)), keras.Input((8, 5))
    assert sum(count_macs(keras.Model([a, b], ops.matmul(a, b))).values()) == 6 * 8 * 5
    heads, keys = keras.Input((2, 6, 8)), keras.Input((2, 5, 8))
    product = ops.einsum("bhqd,bhkd->bhqk", heads, keys)
    assert sum(count_macs(keras.Model([heads, keys], product)).values()) == 2 * 6 * 5 * 8


def test_paths_and_calls_of_a_shared_nested_layer():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="head")(inner(inner(x))))
    assert count_macs(model) == {"inner/dense": 2 * 16, "head": 8}


def test_an_axis_of_no_fixed_size_counts_once():
    assert count(layers.Conv2D(8, 3), (None, None, 4)) == 9 * 4 * 8


def test_a_known_network():
    # 224 pixels: the 569 million of the paper (Howard et al. 2017, table 4), without its classifier
    # of 1.02 million.
    model = keras.applications.MobileNet(weights=None)
    assert sum(count_macs(model).values()) / 1e6 == pytest.approx(568.7, abs=0.5)

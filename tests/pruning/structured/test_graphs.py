"""Branches, and operations that rearrange channels."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.graph import keras_internals

IMAGE = (8, 8, 3)


def model_of(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = function(*inputs)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def residual_and_squeeze_excitation(x):
    x = layers.Conv2D(8, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(8, 3, padding="same")(y)
    x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = keras_internals.CustomScaleLayer(0.3)([x, layers.Conv2D(8, 1)(y)])
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(4, 1, activation="relu")(s)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(s)])
    s = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    s = layers.Dense(8, activation="hard_sigmoid")(layers.Dense(4, activation="relu")(s))
    return layers.Dense(3)(layers.Flatten()(x * s))


def concatenate_split_and_slice(x):
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    b = layers.Conv2D(6, 3, padding="same")(x)
    c = layers.Concatenate()([a, b, x])
    d = ops.concatenate([c, layers.Conv2D(4, 1)(layers.BatchNormalization()(c))], -1)
    p, q = ops.split(layers.Conv2D(8, 1)(d), 2, axis=-1)
    gated = p * ops.sigmoid(q)
    joined = ops.concatenate([gated[:, :, :, 1:3], gated[..., :2], ops.relu(p)], -1)
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(joined))


def reshape_and_transpose(x):
    x = ops.transpose(layers.Conv2D(6, 3)(x), (0, 3, 1, 2))
    x = layers.Permute((2, 1))(layers.Dense(5)(ops.reshape(x, (-1, 6, 36))))
    x = layers.Flatten()(layers.Dense(7, activation="relu")(x))
    return layers.Dense(2)(ops.squeeze(ops.expand_dims(layers.Dense(6)(x), 1), 1))


def channel_shuffle(x):
    x = layers.Reshape((8, 8, 2, 4))(layers.Conv2D(8, 1)(x))
    x = layers.Reshape((8, 8, 8))(layers.Permute((1, 2, 4, 3))(x))
    x = layers.Conv2D(8, 3, groups=2)(x)
    return layers.Dense(2)(layers.GlobalAveragePooling2D()(x))


def padding_and_constants(x):
    x = ops.pad(layers.Conv2D(6, 1)(x), ((0, 0), (1, 1), (0, 0), (1, 2)))
    x = layers.Activation("silu")(layers.Rescaling(2.0)(x)) * np.arange(9, dtype="float32")
    return layers.Dense(2)(ops.mean(x, axis=(1, 2)))


def operations(x):
    x = layers.Cropping2D()(layers.ZeroPadding2D()(layers.Conv2D(6, 1)(x)))
    x = ops.clip(ops.where(x > 0, x, 0.1 * x), -1, 1)
    x = ops.sum(x, axis=-1, keepdims=True) * layers.Conv2D(5, 1)(x)
    x = layers.Average()([x, layers.Conv2D(5, 1)(x)])
    return layers.Dense(2)(
        layers.Maximum()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    )


@pytest.mark.parametrize(
    ("function", "groups"),
    [
        (residual_and_squeeze_excitation, 3),
        (concatenate_split_and_slice, 7),
        (reshape_and_transpose, 2),
        (channel_shuffle, 2),
        (padding_and_constants, 1),
        (operations, 2),
    ],
)
def test_shrinks_exactly(shrunk_exactly, function, groups):
    shrunk_exactly(model_of(function, IMAGE), groups)


def test_mixed_tokens(shrunk_exactly):
    def mixer(x):
        x = layers.Dense(6)(x)
        y = layers.Dense(12, activation="gelu")(layers.Permute((2, 1))(x))
        x = x + layers.Permute((2, 1))(layers.Dense(7)(y))
        return layers.Dense(3)(layers.GlobalAveragePooling1D()(x))

    shrunk_exactly(model_of(mixer, (7, 5)), groups=2)


def test_nested_shared_and_several_outputs(shrunk_exactly):
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(4, 3, padding="same", name="second"),
        ],
        name="inner",
    )
    shared = layers.Dense(6, activation="relu", name="shared")
    x = image = keras.Input(IMAGE)
    x = inner(inner(layers.Conv2D(4, 1, name="stem")(x)))
    a = shared(layers.Dense(5, name="a1")(layers.GlobalAveragePooling2D()(x)))
    b = shared(layers.Dense(5, name="b1")(layers.GlobalMaxPooling2D()(x)))
    outputs = {"a": layers.Dense(2, name="a2")(a), "b": [layers.Dense(3, name="b2")(b), x]}
    model = keras.Model(image, outputs)
    small = shrunk_exactly(model, groups=3)
    # The layer called twice reads the same channels each time; the output keeps all of its own.
    assert {layer.name for layer in small.layers} >= {"stem", "first", "second", "shared", "a1"}
    assert small.get_layer("first").filters == 3
    assert small.get_layer("second").filters == 4
    assert small.get_layer("a1").units == 3
    assert list(small.output) == ["a", "b"]


def test_einsums_and_embeddings(shrunk_exactly):
    def einsums(x):
        y = layers.EinsumDense("abc,cde->abde", (7, 4, 6), bias_axes="de")(x)
        y = layers.EinsumDense("abde,def->abf", (7, 5), bias_axes="f")(layers.ReLU()(y))
        z = layers.EinsumDense("...x,xy->...y", 6, bias_axes="y", activation="relu")(x)
        return y, layers.EinsumDense("...x,xy->...y", 5)(z)

    shrunk_exactly(model_of(einsums, (7, 5)), groups=3)
    words = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 8)(words) + layers.Embedding(5, 8)(words)
    shrunk_exactly(keras.Model(words, layers.Dense(3)(layers.LSTM(4)(x))), groups=2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: ops.where(c > 0, x, -1.0),
        lambda x, c: ops.where(c > 0, c, x),
        lambda x, c: ops.max(x, axis=1, initial=1.0, keepdims=True) + 0 * c,
        lambda x, c: ops.max(x, axis=1, initial=0.0, keepdims=True) + 0 * c,
        lambda x, c: ops.cast(ops.equal(ops.relu(x), c * 0.0), "float32"),
        lambda x, c: x / (1.0 + ops.square(c)),
    ],
)
def test_operations_that_make_something_else_of_zeros(shrunk_exactly, function):
    inputs, other = keras.Input((4, 3)), keras.Input((4, 1))
    x = function(layers.Dense(8, name="dense")(inputs), other)
    x = layers.Dense(3)(ops.mean(x, axis=1))
    shrunk_exactly(keras.Model([inputs, other], x))

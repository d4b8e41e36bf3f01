"""`from_tf_keras`: the same outputs, for every common layer."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.interop import find_transfer

RNG = np.random.default_rng(0)


def outputs_of(legacy, model, *arrays):
    """Flat outputs of both models."""
    given = arrays[0] if len(arrays) == 1 else list(arrays)
    expected = keras.tree.flatten(legacy(given, training=False))
    seen = keras.tree.flatten(model(given, training=False))
    return [(np.asarray(a), np.asarray(b)) for a, b in zip(expected, seen, strict=True)]


def assert_equal(legacy, model, *arrays):
    for expected, seen in outputs_of(legacy, model, *arrays):
        np.testing.assert_allclose(seen, expected, atol=1e-5, rtol=1e-5)


def perturb(model):
    """Give every weight a value that training would: biases and statistics are not 0 and 1."""
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if variable.shape.rank == 1:
            variable.assign(generator.uniform(0.2, 1.2, variable.shape))


def image_layers(k, image):
    L = k.layers
    same = {"padding": "same"}
    row = L.Reshape((64, 4))(image)
    vector = L.GlobalAveragePooling2D()(image)
    return {
        "conv": L.Conv2D(6, 3, activation="swish", kernel_regularizer="l2")(image),
        "grouped": L.Conv2D(4, 3, groups=2, strides=2, **same)(image),
        "depthwise": L.DepthwiseConv2D(3, depth_multiplier=2)(image),
        "separable": L.SeparableConv2D(5, 3, activation="relu")(image),
        "transpose": L.Conv2DTranspose(5, 3, strides=2, **same)(image),
        "conv1d": L.Conv1D(5, 3, padding="causal", dilation_rate=2)(row),
        "separable1d": L.SeparableConv1D(5, 3)(row),
        "batch_norm": L.BatchNormalization(epsilon=1e-2)(image),
        "layer_norm": L.LayerNormalization(axis=[2, 3])(image),
        "group_norm": L.GroupNormalization(2)(image),
        "prelu": L.PReLU(shared_axes=[1, 2])(image),
        "leaky": L.LeakyReLU(0.3)(image),
        "relu6": L.ReLU(6.0, negative_slope=0.1, threshold=0.2)(image),
        "elu": L.ELU(0.7)(image),
        "gelu": L.Activation("gelu")(image),
        "hard_sigmoid": L.Activation("hard_sigmoid")(image),
        "softmax": L.Softmax(axis=1)(image),
        "dense_leaky": L.Dense(5, activation=L.LeakyReLU(0.1))(vector),
        "dense_hard": L.Dense(5, activation="hard_sigmoid", kernel_constraint="max_norm")(vector),
        "pools": L.Concatenate()([L.MaxPooling2D(2)(image), L.AveragePooling2D(2)(image)]),
        "global": L.Concatenate()([L.GlobalMaxPooling2D()(image), vector]),
        "bilinear": L.UpSampling2D(2, interpolation="bilinear")(image),
        "resizing": L.Resizing(5, 11)(image),
        "rescaling": L.Rescaling(0.3, 0.1)(image),
        "normalization": L.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2, 3, 4])(image),
        "pad_crop": L.Cropping2D(2)(L.ZeroPadding2D(((1, 2), (3, 0)))(image)),
        "permuted": L.Flatten()(L.Permute((3, 1, 2))(image)),
        "repeated": L.RepeatVector(3)(vector),
        "added": L.Average()([L.Add()([image, image]), L.Dropout(0.5)(image)]),
        "subtracted": L.Subtract()([image, L.ReLU()(image)]),
        "dot": L.Dot(axes=(1, 1), normalize=True)([row, row]),
        "maximum": L.Maximum()([image, L.Minimum()([image, L.Multiply()([image, image])])]),
    }  # fmt: skip


def test_image_layers(tf_keras):
    image = tf_keras.Input((8, 8, 4), name="image")
    legacy = tf_keras.Model(image, image_layers(tf_keras, image), name="layers")
    perturb(legacy)
    model = tfc.from_tf_keras(legacy)
    assert model.name == "layers"
    assert [tensor.name for tensor in model.inputs] == ["image"]
    x = RNG.normal(size=(3, 8, 8, 4)).astype("float32")
    expected, seen = legacy(x, training=False), model(x, training=False)
    assert sorted(expected) == sorted(seen)
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
    assert find_transfer(model).error < 1e-5
    regularized = [layer for layer in model.layers if getattr(layer, "kernel_regularizer", None)]
    assert len(regularized) == 1


def test_sequence_layers_and_several_inputs(tf_keras):
    L = tf_keras.layers
    ids, numbers = tf_keras.Input((6,), dtype="int32", name="z"), tf_keras.Input((6, 5), name="a")
    embedded = L.Embedding(11, 5, mask_zero=True)(ids)
    sequence, *states = L.LSTM(4, return_sequences=True, return_state=True)(embedded)
    outputs = [
        L.LSTM(4, recurrent_activation="hard_sigmoid")(sequence, initial_state=states),
        L.GRU(3, reset_after=False, go_backwards=True)(numbers),
        L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum")(numbers),
        L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.SimpleRNNCell(2)]))(numbers),
        L.TimeDistributed(L.Dense(2, activation="tanh"))(numbers),
        L.MultiHeadAttention(2, 3)(numbers, numbers),
        L.Attention(use_scale=True)([numbers, embedded]),
        L.EinsumDense("abc,cd->abd", output_shape=(None, 7), bias_axes="d")(numbers),
    ]
    legacy = tf_keras.Model([ids, numbers], outputs)
    perturb(legacy)
    model = tfc.from_tf_keras(legacy)
    data = [RNG.integers(0, 11, (4, 6)).astype("int32"), RNG.normal(size=(4, 6, 5))]
    assert_equal(legacy, model, data[0], data[1].astype("float32"))
    assert [tensor.name for tensor in model.inputs] == ["z", "a"]


def test_nested_shared_and_functions_on_tensors(tf_keras, tmp_path):
    import tensorflow as tf

    L = tf_keras.layers
    inner_input = tf_keras.Input((8,))
    shared = L.Dense(8, name="shared")
    inner = tf_keras.Model(inner_input, shared(shared(inner_input)), name="inner")
    second = tf_keras.Model(inner_input, L.Dense(8)(inner_input), name="second")
    stack = tf_keras.Sequential([L.Dense(8, activation="relu"), second], name="stack")
    x = tf_keras.Input((8,), name="x")
    y = stack(inner(x * 2.0)) - x
    y = tf.concat([y[:, 1:3], tf.nn.relu6(y), 1.0 / (1.0 + tf.abs(x))], axis=-1)
    y = tf.reduce_mean(tf.reshape(y, (-1, 2, 9)), axis=1, keepdims=True)
    frozen = L.BatchNormalization(trainable=False, name="frozen")
    legacy = tf_keras.Model(x, {"y": frozen(y), "t": tf.transpose(y, (0, 2, 1))})
    model = tfc.from_tf_keras(legacy)
    assert_equal(legacy, model, RNG.normal(size=(5, 8)).astype("float32"))
    assert [layer.name for layer in model.get_layer("stack").layers][-1] == "second"
    assert model.count_params() == legacy.count_params()
    assert len(model.trainable_weights) == len(legacy.trainable_weights)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(legacy, again, RNG.normal(size=(5, 8)).astype("float32"))


def test_half_precision_and_sequential(tf_keras):
    policy = tf_keras.mixed_precision.Policy("mixed_float16")
    layers = [tf_keras.Input((6,)), tf_keras.layers.Dense(5, dtype=policy, activation="relu")]
    legacy = tf_keras.Sequential([*layers, tf_keras.layers.Dense(2, dtype="float32")], name="s")
    model = tfc.from_tf_keras(legacy)
    assert isinstance(model, keras.Sequential)
    assert model.layers[0].dtype_policy.name == "mixed_float16"
    x = RNG.normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(model(x), legacy(x), atol=2e-2)


class TestBadInput:
    """What cannot be rebuilt is named."""

    def test_no_tf_keras_model(self):
        with pytest.raises(TypeError, match=r"Keras 2.*keras.*Sequential"):
            tfc.from_tf_keras(keras.Sequential())

    def test_lambda(self, tf_keras):
        layers = [tf_keras.Input((3,)), tf_keras.layers.Lambda(lambda x: x + 1, name="plus")]
        with pytest.raises(ValueError, match=r"'plus' is a Lambda.*custom_objects"):
            tfc.from_tf_keras(tf_keras.Sequential(layers))

    def test_subclassed(self, tf_keras):
        class Own(tf_keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match=r"no graph of layers.*subclassed"):
            tfc.from_tf_keras(Own(name="own"))

    def test_custom_layer(self, tf_keras):
        class Doubling(tf_keras.layers.Layer):
            def call(self, x):
                return x * 2.0

        class Doubled(keras.layers.Layer):
            def call(self, x):
                return x * 2.0

        class Tripled(keras.layers.Layer):
            def call(self, x):
                return x * 3.0

        legacy = tf_keras.Sequential([tf_keras.Input((3,)), Doubling(name="twice")])
        with pytest.raises(ValueError, match=r"'twice'.*Doubling has no equal"):
            tfc.from_tf_keras(legacy)
        model = tfc.from_tf_keras(legacy, custom_objects={"Doubling": Doubled})
        assert_equal(legacy, model, np.ones((2, 3), "float32"))
        with pytest.raises(ValueError, match=r"computes something else.*differs is 'twice'"):
            tfc.from_tf_keras(legacy, custom_objects={"Doubling": Tripled})

    def test_unknown_function(self, tf_keras):
        import tensorflow as tf

        x = tf_keras.Input((3,))
        with pytest.raises(ValueError, match=r"tf\.math\.lgamma"):
            tfc.from_tf_keras(tf_keras.Model(x, tf.math.lgamma(x)))

    def test_ranges_of_a_float_model(self, tf_keras):
        legacy = tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(2)])
        with pytest.raises(ValueError, match="keep_ranges"):
            tfc.from_tf_keras(legacy, keep_ranges=True)

import math

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.pruning import PruningRule, prunable_weights, register_pruning_rule


def names(entries):
    return [entry.name for entry in entries]


def built(*stack, shape=(16, 8)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(3, name="l"), (8,), ["l/kernel"]),
        (layers.EinsumDense("bi,io->bo", 3, name="l"), (8,), ["l/kernel"]),
        (layers.Conv1D(3, 3, name="l"), (16, 8), ["l/kernel"]),
        (layers.Conv2D(3, 3, name="l"), (8, 8, 2), ["l/kernel"]),
        (layers.Conv3D(3, 3, name="l"), (8, 8, 8, 2), ["l/kernel"]),
        (layers.Conv1DTranspose(3, 3, name="l"), (16, 8), ["l/kernel"]),
        (layers.Conv2DTranspose(3, 3, name="l"), (8, 8, 2), ["l/kernel"]),
        (layers.SeparableConv2D(3, 3, name="l"), (8, 8, 2), ["l/pointwise_kernel"]),
        (layers.Embedding(20, 4, name="l"), (5,), ["l/embeddings"]),
        (
            layers.LSTM(3, name="l"),
            (16, 8),
            ["l/lstm_cell/kernel", "l/lstm_cell/recurrent_kernel"],
        ),
        (layers.GRU(3, name="l"), (16, 8), ["l/gru_cell/kernel", "l/gru_cell/recurrent_kernel"]),
        (layers.TimeDistributed(layers.Dense(3, name="l"), name="t"), (16, 8), ["l/kernel"]),
        (
            layers.ConvLSTM2D(2, 3, name="l"),
            (3, 8, 8, 2),
            ["l/conv_lstm_cell/kernel", "l/conv_lstm_cell/recurrent_kernel"],
        ),
    ],
)
def test_layer_types(layer, shape, expected, prune):
    model = built(layer, shape=shape)
    found = [name.replace("_1/", "/") for name in names(prunable_weights(model)[0])]
    stripped = [".".join(part.rstrip("0123456789_") for part in n.split("/")) for n in found]
    assert stripped == [name.replace("/", ".") for name in expected]
    for target in prune(model, sparsity=0.5, scope="uniform", steps=1).targets:
        zeros = int((np.asarray(target.variable) == 0).sum())
        assert zeros == math.floor(0.5 * target.size + 0.5)


def test_bidirectional_and_stacked_cells():
    model = built(
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
        layers.RNN([layers.GRUCell(2, name="a"), layers.LSTMCell(2, name="b")], name="stack"),
    )
    targets, _ = prunable_weights(model)
    assert len(targets) == 8
    assert all(name.startswith("both/") for name in names(targets)[:4])
    assert names(targets)[4].startswith("stack/")


def test_attention_projections():
    inputs = keras.Input((16, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    targets, skipped = prunable_weights(keras.Model(inputs, x))
    assert names(targets) == [
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
    ]
    assert all("bias" in entry.reason for entry in skipped)


def test_every_other_weight_has_a_reason():
    model = built(
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.PReLU(name="prelu", shared_axes=[1, 2]),
        layers.Flatten(),
        layers.Dense(2, name="frozen", trainable=False),
        layers.Dense(2, name="logits"),
        shape=(8, 8, 1),
    )
    targets, skipped = prunable_weights(model)
    assert names(targets) == ["conv/kernel", "logits/kernel"]
    reasons = {entry.name: entry.reason for entry in skipped}
    assert set(reasons) | set(names(targets)) == {
        f"{layer.name}/{weight.name}" for layer in model.layers for weight in layer.weights
    }
    assert reasons["conv/bias"].startswith("bias")
    assert reasons["bn/gamma"] == reasons["bn/moving_mean"] == "normalization parameter"
    assert reasons["depthwise/kernel"].startswith("depthwise kernel: few weights")
    assert reasons["frozen/kernel"] == "frozen: not trainable"
    assert reasons["prelu/alpha"].startswith("no pruning rule for PReLU")


def test_include_and_exclude():
    model = built(
        layers.Conv2D(4, 3, name="conv1"),
        layers.Conv2D(4, 3, name="conv2"),
        layers.SeparableConv2D(4, 3, name="separable"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
        layers.Flatten(),
        layers.Dense(2, name="logits"),
        shape=(8, 8, 1),
    )

    def chosen(include=None, exclude=None):
        return names(prunable_weights(model, include, exclude)[0])

    assert chosen("conv.") == ["conv1/kernel", "conv2/kernel"]
    assert chosen("conv1/kernel") == ["conv1/kernel"]
    assert chosen(layers.Dense) == ["logits/kernel"]
    assert chosen(exclude=["conv.", "logits"]) == ["separable/pointwise_kernel"]
    assert chosen("depthwise") == ["depthwise/kernel"]
    assert chosen("separable") == ["separable/pointwise_kernel"]
    assert chosen("separable/depthwise_kernel") == ["separable/depthwise_kernel"]
    reasons = {e.name: e.reason for e in prunable_weights(model, "conv.", "conv2")[1]}
    assert reasons["conv2/kernel"] == "excluded by 'conv2'"
    assert reasons["logits/kernel"] == "not in `include`"
    with pytest.raises(ValueError, match=r"`include` matches no layer.*Did you mean 'logits'"):
        chosen("logit")
    with pytest.raises(ValueError, match="`exclude` matches no layer"):
        chosen(exclude=layers.LSTM)


def test_nested_and_shared_layers():
    shared = layers.Dense(8, name="shared")
    inner = built(layers.Dense(8, name="dense"), shared, shape=(8,))
    inner.name = "encoder"
    inputs = keras.Input((8,))
    x = shared(inner(inputs))
    x = shared(inner(x))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(x))
    targets, _ = prunable_weights(model)
    assert sorted(names(targets)) == ["dense/kernel", "encoder/dense/kernel", "shared/kernel"]
    assert sorted(names(prunable_weights(model, include="encoder")[0])) == [
        "encoder/dense/kernel",
        "shared/kernel",
    ]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, name="a"), layers.Dense(4, name="b")]
        self.unused = layers.Dense(4, name="unused")
        self.scale = self.add_weight(shape=(4, 4), name="scale")

    def build(self, shape):
        for block in self.blocks:
            block.build((None, 4))
        self.built = True

    def call(self, x):
        # The number of blocks that run depends on the data, so no symbolic trace exists.
        for block in self.blocks[: 1 + int(np.asarray(x).sum() >= 0)]:
            x = block(x)
        return x @ self.scale


def test_subclassed_models():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    targets, skipped = prunable_weights(model)
    assert names(targets) == ["a/kernel", "b/kernel"]
    reasons = {entry.name: entry.reason for entry in skipped}
    assert reasons["unused"] == "the layer is not built"
    assert reasons["subclassed/scale"].startswith("no pruning rule for Subclassed")


class Plain(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")

    def call(self, x):
        return x @ self.w


class Declared(Plain):
    def get_prunable_weights(self):
        return [self.w]


class Registered(Plain):
    """Has a rule of its own."""


def test_custom_layers():
    model = built(Plain(name="plain"), Declared(name="declared"), Registered(name="registered"))
    assert names(prunable_weights(model)[0]) == ["declared/w"]
    register_pruning_rule(Registered, PruningRule(attributes=("w",)))
    assert names(prunable_weights(model)[0]) == ["declared/w", "registered/w"]
    assert names(prunable_weights(model, include="plain")[0]) == ["plain/w"]
    with pytest.raises(ValueError, match="at least one attribute"):
        register_pruning_rule(Registered, PruningRule())
    with pytest.raises(ValueError, match=r"subclass of `keras.layers.Layer`"):
        register_pruning_rule(int, PruningRule(attributes=("w",)))


def test_a_frozen_model_has_no_targets():
    model = built(layers.Dense(3))
    model.trainable = False
    assert prunable_weights(model)[0] == []


def test_a_model_that_was_never_built():
    with pytest.raises(ValueError, match="never built"):
        prunable_weights(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="never built"):
        prunable_weights(Subclassed())

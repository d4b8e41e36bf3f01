"""Attention and recurrent layers."""

import keras
from keras import layers, ops


def model_of(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], function(*inputs))


def test_transformer_block(shrunk_exactly):
    def block(x):
        x = layers.Dense(8)(x)
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 6, value_dim=4, name="attention")(y, y)
        y = layers.Dense(16, activation="gelu", name="wide")(layers.LayerNormalization()(x))
        return layers.Dense(3)(layers.GlobalAveragePooling1D()(x + layers.Dense(8)(y)))

    # Heads, key size, value size and the wide layer; what layer normalization averages stays.
    small = shrunk_exactly(model_of(block, (7, 5)), groups=4)
    attention = small.get_layer("attention")
    assert (attention.num_heads, attention.key_dim, attention.value_dim) == (2, 3, 2)
    assert small.get_layer("wide").units == 8


def test_attention_layers(shrunk_exactly):
    def attend(x):
        y = layers.Dense(8)(x)
        y, scores = layers.MultiHeadAttention(2, 4, use_gate=True)(
            y, layers.Dense(6)(x), return_attention_scores=True
        )
        y = layers.Dense(6)(layers.GroupQueryAttention(4, 4, 2)(y, y))
        y = layers.Attention(use_scale=True)([y, layers.Dense(6)(x)])
        return layers.Dense(3)(layers.AdditiveAttention()([y, layers.Dense(6)(x)])), scores

    shrunk_exactly(model_of(attend, (7, 5)), groups=6)


def test_attention_written_with_operations(shrunk_exactly):
    def attend(x):
        q, k, v = (
            ops.transpose(ops.reshape(layers.Dense(8)(x), (-1, 7, 2, 4)), (0, 2, 1, 3))
            for _ in range(3)
        )
        weights = ops.softmax(ops.matmul(q, ops.swapaxes(k, 2, 3)) / 2.0)
        rows = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        heads = ops.einsum("bhqk,bhkd->bqhd", weights, v)
        return (
            layers.Dense(3)(ops.reshape(rows, (-1, 7, 8))),
            layers.EinsumDense("bqhd,hdm->bqm", (7, 3), bias_axes="m")(heads),
            layers.Dot(axes=2)([layers.Dense(4)(x), layers.Dense(4)(x)]),
        )

    shrunk_exactly(model_of(attend, (7, 5)), groups=3)


def test_recurrent_layers(shrunk_exactly):
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.LSTM(6, return_sequences=True),
            layers.GRU(6, return_sequences=True),
            layers.SimpleRNN(6, return_sequences=True),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.Bidirectional(layers.GRU(4), merge_mode="sum"),
            layers.Dense(3),
        ]
    )
    small = shrunk_exactly(model, groups=5)
    assert small.layers[0].units == 3
    assert small.layers[3].backward_layer.units == 2


def test_cells_and_steps_of_open_length(shrunk_exactly):
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.TimeDistributed(layers.Dense(6, activation="relu")),
            layers.RNN(layers.GRUCell(6, reset_after=False), return_sequences=True),
            layers.RNN(layers.LSTMCell(6)),
            layers.Dense(3),
        ]
    )
    shrunk_exactly(model, groups=3)


def test_states_from_an_encoder(shrunk_exactly):
    def translate(source, target):
        outputs, *state = layers.LSTM(6, return_state=True)(source)
        decoded = layers.LSTM(6, return_sequences=True)(target, initial_state=state)
        return layers.TimeDistributed(layers.Dense(5))(decoded), layers.Dense(2)(outputs)

    # Encoder and decoder lose the same units.
    shrunk_exactly(model_of(translate, (5, 3), (4, 3)), groups=1)


def test_convolutional_recurrence(shrunk_exactly):
    model = keras.Sequential(
        [
            keras.Input((3, 6, 6, 2)),
            layers.TimeDistributed(layers.Conv2D(4, 1, activation="relu")),
            layers.ConvLSTM2D(4, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    shrunk_exactly(model, groups=2)

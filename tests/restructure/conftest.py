"""Small networks with parts that can be left out."""

import keras
import pytest
from keras import layers


@pytest.fixture
def resnet():
    """Build a residual network: four identity blocks of 4 channels, one of 8 behind a stride."""

    def build(zero_block=None, seed=1):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((8, 8, 1), name="image")
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
        for number, (filters, strides) in enumerate(((4, 1), (4, 1), (8, 2), (8, 1), (8, 1)), 1):
            y = layers.Conv2D(filters, 3, strides, padding="same", name=f"b{number}_a")(x)
            y = layers.BatchNormalization(name=f"b{number}_bn")(y)
            y = layers.ReLU(name=f"b{number}_mid")(y)
            y = layers.Conv2D(
                filters,
                3,
                padding="same",
                name=f"b{number}_b",
                kernel_initializer="zeros" if number == zero_block else "he_normal",
            )(y)
            if strides > 1:
                x = layers.Conv2D(filters, 1, strides, name=f"b{number}_shortcut")(x)
            x = layers.Add(name=f"b{number}_add")([x, y])
            x = layers.ReLU(name=f"b{number}_relu")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.Model(inputs, layers.Dense(10, "softmax", name="logits")(x), name="resnet")

    return build


@pytest.fixture
def transformer():
    """Build a pre-normalization transformer of three blocks over six tokens."""

    def build():
        keras.utils.set_random_seed(2)
        inputs = keras.Input((6,), dtype="int32", name="tokens")
        x = layers.Embedding(20, 8, name="embedding")(inputs)
        positions = layers.Embedding(6, 8, name="positions")(
            keras.ops.broadcast_to(keras.ops.arange(6), (1, 6))
        )
        x = x + positions
        for number in (1, 2, 3):
            y = layers.LayerNormalization(name=f"norm{number}")(x)
            y = layers.MultiHeadAttention(2, 4, name=f"attention{number}")(y, y)
            x = layers.Add(name=f"attended{number}")([x, y])
            y = layers.Dense(16, "gelu", name=f"up{number}")(x)
            y = layers.Dense(8, name=f"down{number}")(y)
            x = x + layers.Dropout(0.1, name=f"dropout{number}")(y)
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        return keras.Model(inputs, layers.Dense(3, "softmax", name="logits")(x), name="transformer")

    return build

"""The layers and blocks of the support table: each a function from inputs to one output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Block = Callable[[dict[str, Any]], Any]

SAMPLES = 48


def inputs() -> dict[str, Any]:
    """The symbolic inputs that blocks choose from."""
    return {
        "image": keras.Input((8, 8, 4), name="image"),
        "other": keras.Input((8, 8, 4), name="other"),
        "row": keras.Input((12, 8), name="row"),
        "vector": keras.Input((24,), name="vector"),
        "volume": keras.Input((4, 6, 6, 2), name="volume"),
        "tokens": keras.Input((10,), dtype="int32", name="tokens"),
    }


def samples() -> dict[str, np.ndarray]:
    """Values for the inputs: normally distributed, token ids below 20."""
    generator = np.random.default_rng(0)
    values: dict[str, np.ndarray] = {}
    for name, tensor in inputs().items():
        shape = (SAMPLES, *tensor.shape[1:])
        if "int" in tensor.dtype:
            values[name] = generator.integers(0, 20, shape).astype("int32")
        else:
            values[name] = generator.normal(size=shape).astype("float32")
    return values


def _on(source: str, build: Callable[[], Any]) -> Block:
    """A layer, made anew for each model, on one of the inputs."""
    return lambda x: build()(x[source])


def _same(kind: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: kind(*args, padding="same", **kwargs)


def _chain(*parts: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        made = [part() for part in parts]

        def call(x: Any) -> Any:
            for part in made:
                x = part(x)
            return x

        return call

    return build


def _residual(x: dict[str, Any]) -> Any:
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x["image"]))
    return layers.ReLU()(layers.Add()([x["image"], y]))


def _squeeze(x: dict[str, Any]) -> Any:
    y = layers.GlobalAveragePooling2D(keepdims=True)(x["image"])
    y = layers.Conv2D(4, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="relu")(y))
    return layers.Multiply()([x["image"], y])


def _inverted_residual(x: dict[str, Any]) -> Any:
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 1)(x["image"])))
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
    y = layers.BatchNormalization()(layers.Conv2D(4, 1)(layers.ReLU(6.0)(y)))
    return layers.Add()([x["image"], y])


def _dense_block(x: dict[str, Any]) -> Any:
    y = layers.Concatenate()([x["image"], layers.Conv2D(4, 3, padding="same")(x["image"])])
    return layers.Concatenate()([y, layers.Conv2D(4, 3, padding="same")(y)])


def _encoder(x: dict[str, Any]) -> Any:
    y = layers.MultiHeadAttention(2, 4)(x["row"], x["row"])
    y = layers.LayerNormalization()(layers.Add()([x["row"], y]))
    z = layers.Dense(8)(layers.Dense(16, activation="gelu")(y))
    return layers.LayerNormalization()(layers.Add()([y, z]))


def _activations() -> dict[str, Block]:
    names = (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "hard_silu",
        "hard_sigmoid", "sigmoid", "tanh", "hard_tanh", "softplus", "softsign", "mish",
        "exponential", "softmax", "log_softmax",
    )  # fmt: skip
    return {name: _on("vector", lambda name=name: layers.Activation(name)) for name in names}  # type: ignore[misc]


CATEGORIES: dict[str, dict[str, Block]] = {
    "Convolution and dense": {
        "Dense": _on("vector", lambda: layers.Dense(6)),
        "Dense on rows": _on("row", lambda: layers.Dense(6, activation="relu")),
        "Dense, softmax": _on("vector", lambda: layers.Dense(6, activation="softmax")),
        "Dense, gelu": _on("vector", lambda: layers.Dense(6, activation="gelu")),
        "Conv1D": _on("row", _same(layers.Conv1D, 6, 3)),
        "Conv2D": _on("image", _same(layers.Conv2D, 6, 3)),
        "Conv2D, strided, ReLU6": _on(
            "image", _chain(_same(layers.Conv2D, 6, 3, strides=2), lambda: layers.ReLU(6.0))
        ),
        "Conv2D, grouped": _on("image", _same(layers.Conv2D, 4, 3, groups=2)),
        "Conv2D, dilated": _on("image", _same(layers.Conv2D, 4, 3, dilation_rate=2)),
        "Conv3D": _on("volume", _same(layers.Conv3D, 3, 3)),
        "DepthwiseConv1D": _on("row", _same(layers.DepthwiseConv1D, 3)),
        "DepthwiseConv2D": _on("image", _same(layers.DepthwiseConv2D, 3, depth_multiplier=2)),
        "SeparableConv1D": _on("row", _same(layers.SeparableConv1D, 6, 3)),
        "SeparableConv2D": _on("image", _same(layers.SeparableConv2D, 6, 3, activation="relu")),
        "Conv1DTranspose": _on("row", _same(layers.Conv1DTranspose, 6, 3, strides=2)),
        "Conv2DTranspose": _on("image", _same(layers.Conv2DTranspose, 6, 3, strides=2)),
        "EinsumDense": _on(
            "row", lambda: layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d")
        ),
    },
    "Normalization": {
        "Conv2D, BatchNormalization, ReLU": _on(
            "image",
            _chain(_same(layers.Conv2D, 6, 3), layers.BatchNormalization, layers.ReLU),
        ),
        "BatchNormalization": _on("image", layers.BatchNormalization),
        "LayerNormalization": _on("row", layers.LayerNormalization),
        "RMSNormalization": _on("row", layers.RMSNormalization),
        "GroupNormalization": _on("image", lambda: layers.GroupNormalization(2)),
        "UnitNormalization": _on("row", layers.UnitNormalization),
        "Rescaling": _on("image", lambda: layers.Rescaling(0.3, 0.1)),
    },
    "Activations": _activations(),
    "Activation layers": {
        "PReLU": _on("image", lambda: layers.PReLU(shared_axes=[1, 2])),
        "LeakyReLU": _on("image", layers.LeakyReLU),
        "ReLU(max_value=1)": _on("image", lambda: layers.ReLU(max_value=1.0)),
        "Softmax over axis 1": _on("row", lambda: layers.Softmax(axis=1)),
    },
    "Merging and arithmetic": {
        "Add": lambda x: layers.Add()([x["image"], x["other"]]),
        "Subtract": lambda x: layers.Subtract()([x["image"], x["other"]]),
        "Multiply": lambda x: layers.Multiply()([x["image"], x["other"]]),
        "Average": lambda x: layers.Average()([x["image"], x["other"]]),
        "Maximum": lambda x: layers.Maximum()([x["image"], x["other"]]),
        "Minimum": lambda x: layers.Minimum()([x["image"], x["other"]]),
        "Concatenate": lambda x: layers.Concatenate()([x["image"], x["other"]]),
        "Dot": lambda x: layers.Dot(axes=2)([x["row"], x["row"]]),
        "x * 0.5 + 1": lambda x: x["image"] * 0.5 + 1.0,
        "ops.square": lambda x: ops.square(x["image"]),
        "ops.abs": lambda x: ops.abs(x["image"]),
        "ops.negative": lambda x: ops.negative(x["image"]),
        "ops.matmul": lambda x: ops.matmul(x["row"], ops.transpose(x["row"], (0, 2, 1))),
    },
    "Pooling, shape, resize": {
        "MaxPooling2D": _on("image", lambda: layers.MaxPooling2D(2)),
        "AveragePooling2D": _on("image", lambda: layers.AveragePooling2D(2)),
        "MaxPooling3D": _on("volume", lambda: layers.MaxPooling3D(2)),
        "GlobalAveragePooling2D": _on("image", layers.GlobalAveragePooling2D),
        "GlobalMaxPooling2D": _on("image", layers.GlobalMaxPooling2D),
        "Reshape, Permute": _on(
            "image", _chain(lambda: layers.Reshape((16, 16)), lambda: layers.Permute((2, 1)))
        ),
        "ZeroPadding2D, Cropping2D": _on(
            "image", _chain(lambda: layers.ZeroPadding2D(2), lambda: layers.Cropping2D(1))
        ),
        "UpSampling2D": _on("image", lambda: layers.UpSampling2D(2)),
        "UpSampling2D, bilinear": _on(
            "image", lambda: layers.UpSampling2D(2, interpolation="bilinear")
        ),
        "Resizing": _on("image", lambda: layers.Resizing(12, 12)),
    },
    "Sequences": {
        "Embedding": _on("tokens", lambda: layers.Embedding(20, 8)),
        "SimpleRNN": _on("row", lambda: layers.SimpleRNN(6)),
        "GRU": _on("row", lambda: layers.GRU(6)),
        "LSTM": _on("row", lambda: layers.LSTM(6, return_sequences=True)),
        "LSTM, masked": _on(
            "tokens",
            _chain(
                lambda: layers.Embedding(20, 8, mask_zero=True),
                lambda: layers.LSTM(6, return_sequences=True),
            ),
        ),
        "Bidirectional LSTM": _on("row", lambda: layers.Bidirectional(layers.LSTM(4))),
        "TimeDistributed Dense": _on("row", lambda: layers.TimeDistributed(layers.Dense(5))),
        "MultiHeadAttention": lambda x: layers.MultiHeadAttention(2, 4)(x["row"], x["row"]),
        "Attention": lambda x: layers.Attention()([x["row"], x["row"]]),
    },
    "Blocks": {
        "residual": _residual,
        "squeeze and excitation": _squeeze,
        "inverted residual": _inverted_residual,
        "dense block": _dense_block,
        "transformer encoder": _encoder,
    },
}

"""Models of the benchmarks, written so that Keras 3 and tf_keras build the same graph.

Each function takes the Keras module to build with. The two flavours list their weights in the same
order, so one `get_weights()` fits the other's `set_weights()`.
"""

from types import ModuleType
from typing import Any


def resnet8(keras: ModuleType, classes: int = 10, size: int | None = 32) -> Any:
    """MLPerf Tiny's image classification model: ResNet with three stacks of 16, 32, 64 filters.

    78,666 parameters, inputs of shape `(batch, 32, 32, 3)` in `[0, 1]`, softmax outputs of shape
    `(batch, classes)`. The reference's L2 regularizer is left out: weight decay belongs to the
    optimizer here, so that the loss is the same number in every stage.

    Args:
        keras: The module to build with, `keras` or `tf_keras`.
        classes: Number of outputs. Defaults to 10.
        size: Height and width of the images. None pools globally instead and takes any size, which
            is for training on crops: the weights are the same. Defaults to 32.

    Returns:
        A functional model of that module, not compiled.

    Reference: mlcommons/tiny, `benchmark/training/image_classification/keras_model.py`.
    """
    return _resnet(keras, 1, classes, size, "resnet8")


def resnet20(keras: ModuleType, classes: int = 10, size: int | None = 32) -> Any:
    """ResNet20 for CIFAR-10: three stacks of three residual blocks, 16, 32 and 64 filters.

    274,442 parameters; arguments, inputs and outputs as of `resnet8`. Where a stack halves the
    image, the shortcut is a convolution (option B of the paper).

    Reference: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    """
    return _resnet(keras, 3, classes, size, "resnet20")


def _resnet(keras: ModuleType, blocks: int, classes: int, size: int | None, name: str) -> Any:
    layers = keras.layers

    def convolution(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            kernel_initializer="he_normal",
            name=name,
        )(x)

    def normalised(x: Any, filters: int, strides: int, name: str) -> Any:
        x = convolution(x, filters, 3, strides, f"{name}_conv")
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    inputs = keras.Input((size, size, 3), name="image")
    x = normalised(inputs, 16, 1, "stem")
    x = layers.Activation("relu", name="stem_relu")(x)
    for stack, filters in enumerate((16, 32, 64), start=1):
        for number in range(1, blocks + 1):
            strides = 2 if stack > 1 and number == 1 else 1
            block = f"stack{stack}" if blocks == 1 else f"stack{stack}_block{number}"
            y = normalised(x, filters, strides, f"{block}_a")
            y = layers.Activation("relu", name=f"{block}_a_relu")(y)
            y = normalised(y, filters, 1, f"{block}_b")
            if strides != 1:
                x = convolution(x, filters, 1, strides, f"{block}_shortcut")
            x = layers.Add(name=f"{block}_add")([x, y])
            x = layers.Activation("relu", name=f"{block}_relu")(x)
    if size is None:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    else:
        x = layers.AveragePooling2D(size // 4, name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(
        classes, activation="softmax", kernel_initializer="he_normal", name="logits"
    )(x)
    return keras.Model(inputs, outputs, name=name)


def mobilenet_tiny(keras: ModuleType, classes: int = 10) -> Any:
    """Small MobileNet: depthwise separable blocks with batch normalisation and ReLU6.

    It stands for the layer mix of mobile models (depthwise and pointwise convolutions) in the
    step-time benchmark; nothing is published for it.

    Args:
        keras: The module to build with, `keras` or `tf_keras`.
        classes: Number of outputs. Defaults to 10.

    Returns:
        A functional model of that module, not compiled, for inputs of shape `(batch, 32, 32, 3)`.
    """
    layers = keras.layers
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    blocks = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1))
    for block, (filters, strides) in enumerate(blocks, start=1):
        x = layers.DepthwiseConv2D(
            3, strides=strides, padding="same", use_bias=False, name=f"block{block}_depthwise"
        )(x)
        x = layers.BatchNormalization(name=f"block{block}_depthwise_bn")(x)
        x = layers.ReLU(6.0, name=f"block{block}_depthwise_relu")(x)
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"block{block}_pointwise")(x)
        x = layers.BatchNormalization(name=f"block{block}_pointwise_bn")(x)
        x = layers.ReLU(6.0, name=f"block{block}_pointwise_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="mobilenet_tiny")


def resnet50(keras: ModuleType) -> Any:
    """ResNet50 of `keras.applications` with random weights, for images of 224 pixels."""
    return keras.applications.ResNet50(weights=None, classes=1000)


def transformer(keras: ModuleType, tokens: int = 128, width: int = 256, blocks: int = 4) -> Any:
    """Small transformer encoder that classifies token sequences, for the step-time benchmark.

    Args:
        keras: The module to build with.
        tokens: Tokens in a sequence. Defaults to 128.
        width: Features of a token. Defaults to 256.
        blocks: Encoder blocks, each with four attention heads. Defaults to 4.

    Returns:
        A functional model, not compiled, for int32 inputs of shape `(batch, tokens)`.
    """
    layers = keras.layers
    inputs = keras.Input((tokens,), dtype="int32", name="tokens")
    x = layers.Embedding(8192, width, name="embedding")(inputs)
    for block in range(1, blocks + 1):
        y = layers.MultiHeadAttention(4, width // 4, name=f"block{block}_attention")(x, x)
        x = layers.Add(name=f"block{block}_add1")([x, y])
        x = layers.LayerNormalization(name=f"block{block}_norm1")(x)
        y = layers.Dense(4 * width, activation="gelu", name=f"block{block}_up")(x)
        y = layers.Dense(width, name=f"block{block}_down")(y)
        x = layers.Add(name=f"block{block}_add2")([x, y])
        x = layers.LayerNormalization(name=f"block{block}_norm2")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x))

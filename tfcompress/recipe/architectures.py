"""Small reference networks that a recipe can name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

Builder = Callable[..., keras.Model]

_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Register a function that builds a model under a name for recipes.

    The function takes `input_shape` (without the batch axis) and `classes`, and any further
    arguments with defaults, which a recipe sets under `model.arguments`.

    Args:
        name: The name that recipes use as `model.architecture`.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If the name is taken.

    Example:

    ```python
    @register("linear")
    def linear(input_shape, classes):
        inputs = keras.Input(input_shape)
        outputs = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, outputs)
    ```
    """

    def decorate(builder: Builder) -> Builder:
        if _BUILDERS.get(name, builder) is not builder:
            raise ValueError(f"An architecture of that name is registered already: {name!r}.")
        _BUILDERS[name] = builder
        return builder

    return decorate


def names() -> list[str]:
    """Return the names of the registered architectures, sorted."""
    return sorted(_BUILDERS)


def check(name: str, arguments: dict[str, Any]) -> None:
    """Check that an architecture exists and takes these arguments, without building it.

    Args:
        name: Registered name.
        arguments: Keyword arguments other than `input_shape` and `classes`.

    Raises:
        ValueError: If the name is unknown or an argument is not one of the builder's.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"Unknown architecture{hint} Known: {', '.join(names())}. Received: {name!r}"
        )
    known = [p for p in inspect.signature(_BUILDERS[name]).parameters][2:]
    for argument in arguments:
        if argument not in known:
            raise ValueError(
                f"Architecture {name!r} takes the arguments {', '.join(known) or '(none)'}. "
                f"Received: {argument!r}"
            )


def build(
    name: str, input_shape: Sequence[int], classes: int, arguments: dict[str, Any] | None = None
) -> keras.Model:
    """Build a registered architecture.

    Args:
        name: Registered name.
        input_shape: Shape of one sample, such as `(32, 32, 3)`.
        classes: Number of classes, which is the width of the softmax output.
        arguments: Further keyword arguments of the builder.

    Returns:
        An uncompiled model named after the architecture, from `(batch, *input_shape)` to class
        probabilities `(batch, classes)`.

    Raises:
        ValueError: If the name or an argument is unknown.
    """
    arguments = arguments or {}
    check(name, arguments)
    return _BUILDERS[name](tuple(input_shape), classes, **arguments)


@register("digits_cnn")
def digits_cnn(
    input_shape: Sequence[int], classes: int, filters: Sequence[int] = (32, 64), units: int = 64
) -> keras.Model:
    """Build a two-convolution network for images of about 8 × 8 pixels.

    Args:
        input_shape: Shape of one image, channels last.
        classes: Number of classes.
        filters: Channels of each convolution; every one but the first halves the image.
        units: Width of the hidden dense layer.

    Returns:
        An uncompiled model with a softmax output.
    """
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for index, channels in enumerate(filters):
        x = _conv_bn_relu(x, channels, name=f"conv{index + 1}")
        if index:
            x = layers.MaxPooling2D(name=f"pool{index + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(units, activation="relu", name="hidden")(x)
    x = layers.Dense(classes, name="logits")(x)
    outputs = layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, outputs, name="digits_cnn")


@register("mnist_cnn")
def mnist_cnn(
    input_shape: Sequence[int], classes: int, filters: Sequence[int] = (16, 32), units: int = 64
) -> keras.Model:
    """Build a LeNet-style network: 5 × 5 convolutions, each pooled, and two dense layers.

    After LeNet-5 (LeCun et al. 1998, section II), with ReLU, max pooling and dropout.

    Args:
        input_shape: Shape of one image, channels last.
        classes: Number of classes.
        filters: Channels of each convolution.
        units: Width of the hidden dense layer.

    Returns:
        An uncompiled model with a softmax output.
    """
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for index, channels in enumerate(filters):
        x = layers.Conv2D(channels, 5, padding="same", activation="relu", name=f"conv{index + 1}")(
            x
        )
        x = layers.MaxPooling2D(name=f"pool{index + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(units, activation="relu", name="hidden")(x)
    x = layers.Dropout(0.3, name="dropout")(x)
    x = layers.Dense(classes, name="logits")(x)
    outputs = layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, outputs, name="mnist_cnn")


@register("resnet8")
def resnet8(
    input_shape: Sequence[int], classes: int, filters: Sequence[int] = (16, 32, 64)
) -> keras.Model:
    """Build the ResNet8 of MLPerf Tiny's image classification benchmark.

    One stem convolution and one residual block a stage; every stage but the first halves the image
    (Banbury et al. 2021, "MLPerf Tiny Benchmark", section 4). With the default filters, 32 × 32 × 3
    images and 10 classes it has 78,666 parameters. The reference's L2 regularizer is left out: set
    `weight_decay` in the recipe instead, so that the loss is the same number in every stage.

    Args:
        input_shape: Shape of one image, channels last.
        classes: Number of classes.
        filters: Channels of each stage.

    Returns:
        An uncompiled model with a softmax output.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv_bn_relu(inputs, filters[0], name="stem")
    for stage, channels in enumerate(filters, start=1):
        strides = 1 if stage == 1 else 2
        y = _conv_bn_relu(x, channels, strides=strides, name=f"stage{stage}_a")
        y = layers.Conv2D(
            channels,
            3,
            padding="same",
            kernel_initializer="he_normal",
            name=f"stage{stage}_b",
        )(y)
        y = layers.BatchNormalization(name=f"stage{stage}_b_bn")(y)
        if strides > 1:
            x = layers.Conv2D(
                channels,
                1,
                strides=strides,
                padding="same",
                kernel_initializer="he_normal",
                name=f"stage{stage}_shortcut",
            )(x)
        x = layers.Add(name=f"stage{stage}_add")([x, y])
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    outputs = layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, outputs, name="resnet8")


def _conv_bn_relu(
    x: keras.KerasTensor, channels: int, name: str, strides: int = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(
        channels,
        3,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)

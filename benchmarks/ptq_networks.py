"""The trained float networks of the post-training benchmark."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10
import models
import numpy as np

SEED = 0
BATCH_SIZE = 128
# Largest factor on a channel of the unequal network, either way.
LARGEST_FACTOR = 32.0


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its data, and how it is trained.

    Attributes:
        data: `"cifar10"` or `"mnist"`.
        build: Returns the untrained model.
        epochs: Passes over the training images; 0 for weights that come from elsewhere.
        train: Training images that are used.
        shape: Shape of an input.
        finish: What is done to the trained model, without changing what it computes.
    """

    data: str
    build: Callable[[], Any]
    epochs: int
    train: int
    shape: tuple[int, ...]
    finish: Callable[[Any], None] = lambda model: None


def mobilenet_v2() -> Any:
    """Inverted residuals as in MobileNetV2, with ReLU, which lets factors on channels pass."""
    import keras
    from keras import layers

    def normalised(x: Any, layer: Any, name: str, relu: bool = True) -> Any:
        x = layers.BatchNormalization(name=f"{name}_bn")(layer(x))
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def block(x: Any, number: int, filters: int, strides: int) -> Any:
        inside, name = 4 * x.shape[-1], f"block{number}"
        expand = layers.Conv2D(inside, 1, use_bias=False, name=f"{name}_expand")
        y = normalised(x, expand, f"{name}_expand")
        depthwise = layers.DepthwiseConv2D(
            3, strides, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        y = normalised(y, depthwise, f"{name}_depthwise")
        project = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")
        y = normalised(y, project, f"{name}_project", relu=False)
        if strides == 1 and x.shape[-1] == filters:
            y = layers.Add(name=f"{name}_add")([x, y])
        return y

    inputs = keras.Input((32, 32, 3), name="image")
    stem = layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem")
    x = normalised(inputs, stem, "stem")
    for number, (filters, strides) in enumerate(((24, 2), (24, 1), (32, 2), (32, 1)), start=1):
        x = block(x, number, filters, strides)
    x = normalised(x, layers.Conv2D(64, 1, use_bias=False, name="top"), "top")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x))


def unequal_channels(model: Any) -> None:
    """Scales the channels inside every block and back, by up to `LARGEST_FACTOR` either way."""
    generator = np.random.default_rng(SEED)
    limit = np.log(LARGEST_FACTOR)
    for name in (f"block{number}" for number in range(1, 5)):
        for before, after in (("expand", "depthwise"), ("depthwise", "project")):
            norm, layer = model.get_layer(f"{name}_{before}_bn"), model.get_layer(f"{name}_{after}")
            factors = np.exp(generator.uniform(-limit, limit, norm.gamma.shape)).astype("float32")
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            # The input channels of a depthwise kernel and of a 1x1 kernel are on the same axis.
            layer.kernel.assign(layer.kernel / factors[:, None])


def ds_cnn() -> Any:
    """Depthwise separable blocks as in MLPerf Tiny's keyword spotting, for MNIST."""
    import keras
    from keras import layers

    # Few steps of training: the statistics must follow quickly.
    norm = functools.partial(layers.BatchNormalization, momentum=0.9)
    x = inputs = keras.Input((28, 28, 1), name="image")
    stem = layers.Conv2D(32, 4, 2, padding="same", use_bias=False, name="stem")
    x = layers.ReLU(name="stem_relu")(norm(name="stem_bn")(stem(x)))
    for number in range(1, 4):
        depthwise = layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, name=f"block{number}_depthwise"
        )
        pointwise = layers.Conv2D(32, 1, use_bias=False, name=f"block{number}_pointwise")
        for layer in (depthwise, pointwise):
            x = norm(name=f"{layer.name}_bn")(layer(x))
            x = layers.ReLU(name=f"{layer.name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x))


def lstm() -> Any:
    """One LSTM over 14 pairs of rows of an MNIST image; unrolled, as the converter needs it."""
    import keras
    from keras import layers

    inputs = keras.Input((14, 56), name="rows")
    x = layers.LSTM(32, unroll=True, name="memory")(inputs)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x))


def resnet8() -> Any:
    """MLPerf Tiny's ResNet; its weights come from the float stage of resnet8_cifar10.py."""
    import keras

    return models.resnet8(keras)


NETWORKS = {
    "resnet8": Network("cifar10", resnet8, 0, 50_000, (32, 32, 3)),
    "mobilenet_v2_unequal": Network(
        "cifar10", mobilenet_v2, 6, 20_000, (32, 32, 3), unequal_channels
    ),
    "ds_cnn": Network("mnist", ds_cnn, 8, 30_000, (28, 28, 1)),
    "lstm": Network("mnist", lstm, 12, 30_000, (14, 56)),
}


def load_data(name: str, data_dir: str | None, work: Path) -> dict[str, np.ndarray]:
    """The images of a network: `x_train`, `x_test` float32 in 0 ... 1, `y_train`, `y_test`."""
    network = NETWORKS[name]
    if network.data == "cifar10":
        arrays = cifar10.load(data_dir, work / "cifar10.npz")
    else:
        import tensorflow_datasets as tfds

        arrays = {}
        for split in ("train", "test"):
            dataset = tfds.load(
                "mnist",
                split=split,
                data_dir=data_dir,
                download=data_dir is None,
                batch_size=-1,
                as_supervised=True,
            )
            arrays[f"x_{split}"], arrays[f"y_{split}"] = tfds.as_numpy(dataset)
    scaled = {}
    for split, count in (("train", network.train), ("test", None)):
        images = cifar10.scaled(arrays[f"x_{split}"][:count])
        scaled[f"x_{split}"] = images.reshape(-1, *network.shape)
        scaled[f"y_{split}"] = arrays[f"y_{split}"][:count]
    return scaled


def trained(name: str, arrays: dict[str, np.ndarray], work: Path, data_dir: str | None) -> Any:
    """The trained model, from the work folder if an earlier run left it there."""
    import keras

    network = NETWORKS[name]
    keras.utils.set_random_seed(SEED)
    model = network.build()
    weights = work / ("float.npz" if name == "resnet8" else f"{name}.npz")
    if not weights.exists():
        if name == "resnet8":
            import float_training

            float_training.run(work, cifar10.load(data_dir, work / "cifar10.npz"))
        else:
            _train(model, network, arrays)
            np.savez(weights, *model.get_weights())
    with np.load(weights) as stored:
        model.set_weights([stored[key] for key in stored.files])
    network.finish(model)
    return model


def _train(model: Any, network: Network, arrays: dict[str, np.ndarray]) -> None:
    import keras

    steps = network.epochs * (len(arrays["x_train"]) // BATCH_SIZE)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(arrays["x_train"], arrays["y_train"], BATCH_SIZE, epochs=network.epochs, verbose=2)

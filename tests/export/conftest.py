"""Small models and the files made of them, shared by the export tests."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.export import Artifact, convert


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((96, 8, 8, 3), np.float32)


@pytest.fixture(scope="session")
def model() -> keras.Model:
    """Convolution, batch normalisation, ReLU, pooling, dense: all of it has int8 kernels."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(6, 3, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.fixture(scope="session")
def elu_model() -> keras.Model:
    """Holds an operator that LiteRT has no int8 kernel for."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.ops.elu(keras.layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, keras.layers.Conv2D(2, 3)(x))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def int8_artifact(model: keras.Model, images: np.ndarray, folder: Path) -> Artifact:
    return convert(
        model, folder / "int8.tflite", calibration=images, preprocessing={"scale": 1 / 255}
    )


@pytest.fixture(scope="session")
def float_artifact(model: keras.Model, folder: Path) -> Artifact:
    return convert(model, folder / "float32.tflite", scheme="float32")


@pytest.fixture(scope="session")
def elu_artifact(elu_model: keras.Model, images: np.ndarray, folder: Path) -> Artifact:
    return convert(elu_model, folder / "elu.tflite", calibration=images)


@pytest.fixture(scope="session")
def float_io_artifact(model: keras.Model, images: np.ndarray, folder: Path) -> Artifact:
    return convert(model, folder / "float_io.tflite", calibration=images, io="float32")

"""Small networks with weights that are hard to quantize, and samples for them."""

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture(scope="session")
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")


@pytest.fixture
def chain():
    """Return a builder: convolution, depthwise and dense layers, all that algorithms act on."""

    def build(seed: int = 0, activation: str = "relu") -> keras.Model:
        keras.utils.set_random_seed(seed)
        x = inputs = keras.Input((8, 8, 3), name="image")
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.Activation(activation, name="act")(x)
        x = layers.DepthwiseConv2D(3, name="depthwise", activation=activation)(x)
        x = layers.Conv2D(12, 1, name="pointwise", activation=activation)(x)
        x = layers.MaxPooling2D(name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(16, activation=activation, name="hidden")(x)
        model = keras.Model(inputs, layers.Dense(4, name="head")(x), name="chain")
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            if "moving_variance" in weight.path:
                weight.assign(rng.uniform(0.5, 2.0, weight.shape))
            elif len(weight.shape) == 1:
                weight.assign(rng.normal(scale=0.3, size=weight.shape) + ("gamma" in weight.path))
        return model

    return build


@pytest.fixture
def unequal(chain):
    """Return a builder of a network of the same function with unequal channels.

    Every channel between the convolutions is scaled by a factor of up to 55 either way, and scaled
    back by the layer behind it.
    """

    def build(seed: int = 0) -> keras.Model:
        model = chain(seed)
        factors = np.exp(np.linspace(-4, 4, 8)).astype("float32")
        norm, depthwise = model.get_layer("bn"), model.get_layer("depthwise")
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        depthwise.kernel.assign(depthwise.kernel / factors[None, None, :, None])
        return model

    return build

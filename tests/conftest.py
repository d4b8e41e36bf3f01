"""Fixtures that several test folders share."""

import os
import subprocess
import sys
import textwrap

# Before anything imports TensorFlow or matplotlib.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Callable

import pytest


@pytest.fixture(autouse=True)
def same_numbers(request):
    """Let every test draw the same random numbers, whatever ran before it in its process."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    if (generator := getattr(request.module, "RNG", None)) is not None:
        generator.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture(scope="session")
def digits():
    """Scikit-learn's digits: 1,437 training and 360 test images of shape (8, 8, 1) in 0 … 1."""
    from tfcompress import datasets

    return datasets.load("digits")


@pytest.fixture
def tiny_cnn() -> Callable:
    """Return a builder of a small convolutional classifier with batch normalisation."""
    import keras

    def build(input_shape=(8, 8, 1), classes=10, filters=4, seed=0):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input(input_shape, name="image")
        x = keras.layers.Conv2D(filters, 3, padding="same", name="conv")(inputs)
        x = keras.layers.BatchNormalization(name="bn")(x)
        x = keras.layers.ReLU(name="relu")(x)
        x = keras.layers.MaxPooling2D(name="pool")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dense(classes, name="logits")(x)
        return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x), name="tiny_cnn")

    return build


@pytest.fixture(scope="session")
def own_step() -> type:
    """Return a class of models with a training step of their own, written with TensorFlow."""
    import keras

    class OwnStep(keras.Model):
        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    return OwnStep


@pytest.fixture(scope="session")
def run_python() -> Callable:
    """Return a function that runs a script in a process of its own and returns what it prints."""

    def run(script, *flags, **environment):
        result = subprocess.run(
            [sys.executable, *flags, "-c", textwrap.dedent(script)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stdout

    return run

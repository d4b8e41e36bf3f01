"""Keras 2 and tfmot, imported once and quietly."""

import warnings

import pytest


@pytest.fixture(scope="session")
def tf_keras():
    """The tf_keras module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tf_keras

    return tf_keras


@pytest.fixture(scope="session")
def tfmot():
    """The tensorflow_model_optimization module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization

    return tensorflow_model_optimization


@pytest.fixture(scope="session")
def train(tf_keras, digits):
    """Return a function that fits a classifier that gives logits to digits."""

    def fit(model, epochs=1, callbacks=(), rate=3e-3):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(rate), loss)
        model.fit(*digits.train, epochs=epochs, batch_size=64, verbose=0, callbacks=list(callbacks))

    return fit


@pytest.fixture(scope="session")
def mnist_cnn(tf_keras, train):
    """Return a builder of the small CNN of tfmot's guides, trained on digits."""
    trained = []

    def build():
        tf_keras.utils.set_random_seed(0)
        layers = tf_keras.layers
        model = tf_keras.Sequential(
            [
                tf_keras.Input((8, 8, 1)),
                layers.Conv2D(12, 3, activation="relu", name="conv"),
                layers.Conv2D(8, 3, use_bias=False, name="plain"),
                layers.BatchNormalization(name="bn"),
                layers.ReLU(name="relu"),
                layers.MaxPooling2D(name="pool"),
                layers.Flatten(name="flatten"),
                layers.Dense(24, activation="relu", name="hidden"),
                layers.Dense(10, name="logits"),
            ]
        )
        if not trained:
            train(model, epochs=8)
            trained.extend(model.get_weights())
        model.set_weights(trained)
        return model

    return build

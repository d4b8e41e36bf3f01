"""Pruning without training, which most tests of what is pruned need no more than."""

import pytest


@pytest.fixture
def prune():
    """Return a function that calls a callback's hooks as `fit` would, with no step in between."""
    from tfcompress.callbacks import MagnitudePruning

    def run(model, steps=3, epoch=0, **settings):
        callback = MagnitudePruning(begin=0, end=steps, frequency=1, **settings)
        callback.set_params({"epochs": epoch + 1, "steps": steps + 1})
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_epoch_begin(epoch)
        for batch in range(steps + 1):
            callback.on_train_batch_begin(batch)
            callback.on_train_batch_end(batch)
        callback.on_epoch_end(epoch, {})
        callback.on_train_end()
        return callback

    return run


@pytest.fixture
def convnet():
    """Return a builder of a network with two convolutions, of 288 and 1,152 weights, and a head."""
    import keras
    from keras import layers

    def build(seed=0, optimizer="sgd"):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((8, 8, 4), name="image")
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1")(inputs)
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.ReLU(name="relu")(x)
        x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2")(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dense(16, activation="tanh", name="dense")(x)
        model = keras.Model(inputs, layers.Dense(4, name="logits")(x))
        model.compile(optimizer, "mse")
        return model

    return build

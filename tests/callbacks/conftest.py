"""A small classifier with three kernels of 416 weights, and what the pruning tests look at."""

import pytest

STEPS = 8
BATCH = 16


@pytest.fixture
def data():
    """Return a function of a seed that makes `STEPS` batches of 8 features and 2 classes."""
    import numpy as np

    def make(seed=0):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(STEPS * BATCH, 8)).astype("float32")
        return x, (x.sum(axis=1) > 0).astype("int32")

    return make


@pytest.fixture
def compiled():
    """Return a function that compiles a classifier."""
    import keras

    def compile_model(model, optimizer="adam", **arguments):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, **arguments)
        return model

    return compile_model


@pytest.fixture
def dense_model(compiled):
    """Return a builder of the classifier: 8 x 16, 16 x 16 and 16 x 2 weights."""
    import keras
    from keras import layers

    def build(seed=0, **compile_arguments):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(16, activation="relu", name="a"),
                layers.Dense(16, activation="relu", name="b"),
                layers.Dense(2, name="logits"),
            ]
        )
        return compiled(model, **compile_arguments)

    return build


@pytest.fixture
def fit(data):
    """Return a function that fits a model with some callbacks."""

    def run(model, *callbacks, epochs=3, **arguments):
        x, y = data()
        arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
        return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments)

    return run


def _kernels(model):
    import numpy as np

    return [np.asarray(weight) for weight in model.get_weights() if weight.ndim >= 2]


def _zeros(model):
    return sum(int((kernel == 0).sum()) for kernel in _kernels(model))


def _sparsity(model):
    return _zeros(model) / sum(kernel.size for kernel in _kernels(model))


@pytest.fixture
def kernels():
    """Return a function that lists the kernels of a model."""
    return _kernels


@pytest.fixture
def zeros():
    """Return a function that counts the zeros in the kernels of a model."""
    return _zeros


@pytest.fixture
def sparsity():
    """Return a function that gives the share of zeros in the kernels of a model."""
    return _sparsity


@pytest.fixture
def recorder():
    """Return a callback class that notes the share of zeros as each training step left it."""
    import keras

    class Recorder(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.sparsities = []
            self.validation = []

        def on_train_batch_end(self, batch, logs=None):
            self.sparsities.append(_sparsity(self.model))

        def on_test_batch_end(self, batch, logs=None):
            self.validation.append(_sparsity(self.model))

    return Recorder


class Killed(RuntimeError):
    """Stands for the end of the process."""


@pytest.fixture
def killed():
    """Return the exception with which a training ends that is killed."""
    return Killed


@pytest.fixture
def kill():
    """Return a callback class that kills the training after some batches."""
    import keras

    class Kill(keras.callbacks.Callback):
        def __init__(self, step):
            super().__init__()
            self.step = step

        def on_train_batch_end(self, batch, logs=None):
            self.step -= 1
            if self.step == 0:
                raise Killed

    return Kill


@pytest.fixture
def unknown_length(data):
    """Return a function that makes a dataset of the same batches that does not know how many."""
    import tensorflow as tf

    def batches():
        x, y = data()
        for start in range(0, len(x), BATCH):
            yield x[start : start + BATCH], y[start : start + BATCH]

    def make():
        signature = (tf.TensorSpec((None, 8)), tf.TensorSpec((None,), tf.int32))
        return tf.data.Dataset.from_generator(batches, output_signature=signature)

    return make

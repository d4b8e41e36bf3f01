"""New models out of a flat graph."""

import keras
import numpy as np
from keras import layers

from tfcompress.graph import flatten
from tfcompress.graph.rebuild import rebuild


def test_operations_of_equal_names_are_told_apart():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.ReLU(name="relu")(layers.ReLU(name="relu_1")(inputs)))

    def call(node, args, kwargs):
        # As Keras names a new layer in a process in which nothing but this model was loaded.
        copy = layers.ReLU(name=node.operation.name)
        return layers.ReLU(name="relu_1")(copy(*args, **kwargs))

    built = rebuild(flatten(model), call)
    names = [layer.name for layer in built.layers]
    assert len(set(names)) == len(names) == 5
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], "float32")
    np.testing.assert_array_equal(built(x), np.maximum(x, 0))

"""Reading models of every kind as one flat graph."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.graph import UntraceableModelError, flatten
from tfcompress.graph.rebuild import LayerCopies, rebuild


def names(graph):
    return [node.name for node in graph.nodes]


def test_sequential_is_read_in_order():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    graph = flatten(model)
    assert names(graph) == ["a", "b"]
    assert graph.nodes[0].operation is model.get_layer("a")
    assert graph.outputs[0].shape == (None, 2)
    assert graph.consumers(graph.nodes[0].outputs[0]) == [graph.nodes[1]]


def test_nested_models_are_descended_and_keep_their_path():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")], name="inner")
    outer_input = keras.Input((4,))
    x = inner(outer_input)
    x = inner(x)  # shared: called twice
    model = keras.Model(outer_input, layers.Dense(1, name="d")(x))
    assert names(flatten(model)) == ["inner/d", "inner/d@2", "d"]


def test_operations_on_tensors_are_nodes():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.relu(inputs * 2.0 + layers.Dense(4)(inputs)))
    assert [node.type_name for node in flatten(model).nodes] == [
        "Multiply",
        "Dense",
        "Add",
        "Relu",
    ] or {node.type_name for node in flatten(model).nodes} == {"Multiply", "Dense", "Add", "Relu"}


def test_dict_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    total = layers.Add(name="total")([a, b])
    model = keras.Model({"a": a, "b": b}, {"sum": total, "first": a})
    graph = flatten(model)
    assert set(graph.input_structure) == {"a", "b"}
    assert set(graph.output_structure) == {"sum", "first"}


class Classifier(keras.Model):
    """Subclassed, with a `call` that can be traced."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="relu", name="hidden")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return self.head(self.hidden(x) * 2.0)


class Branching(Classifier):
    """Subclassed, with a branch on values."""

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((None, 5))

    def call(self, x):
        return self.head(self.hidden(x)) if float(ops.sum(x)) > 0 else self.head(self.hidden(-x))


class BranchingInside(Classifier):
    """Subclassed, with a branch on values and no `build` of its own."""

    def call(self, x):
        hidden = self.hidden(x)
        return self.head(hidden if float(ops.sum(hidden)) > 0 else hidden * 2.0)


def test_subclassed_model_is_traced():
    model = Classifier()
    model(np.ones((2, 4), "float32"))
    graph = flatten(model)
    assert [n for n in names(graph) if "multiply" not in n] == ["hidden", "head"]
    assert graph.nodes[0].operation is model.hidden


def test_untraceable_model_says_why():
    model = Branching()
    model.build((None, 4))
    with pytest.raises(UntraceableModelError, match=r"Branching.*cannot be traced"):
        flatten(model)


def test_model_that_keras_could_not_follow_either_says_so():
    model = BranchingInside()
    model(np.ones((2, 4), "float32"))  # on values: no shape of an input is known afterwards
    reason = r"BranchingInside.*cannot be traced.*Python branch on tensor values.*still be pruned"
    with pytest.raises(UntraceableModelError, match=reason):
        flatten(model)


@pytest.mark.parametrize("make", [Classifier, lambda: keras.Sequential([layers.Dense(2)])])
def test_unbuilt_model_is_refused(make):
    with pytest.raises(ValueError, match="never built"):
        flatten(make())


def test_anything_else_is_refused():
    with pytest.raises(ValueError, match="Expected a Keras 3 model"):
        flatten(layers.Dense(2))


def test_rebuilt_model_computes_the_same_with_its_own_weights():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="d"), layers.BatchNormalization(name="n")],
        name="inner",
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="d")(inner(inner(inputs))))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    graph = flatten(model)
    copies = LayerCopies(graph)
    copy = rebuild(graph, lambda node, args, kwargs: copies.copy(node)(*args, **kwargs))
    copies.copy_weights()
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)
    assert [layer.name for layer in copy.layers[1:]] == ["inner_d", "n", "d"]
    copy.get_layer("d").kernel.assign(np.zeros((4, 2)))
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)

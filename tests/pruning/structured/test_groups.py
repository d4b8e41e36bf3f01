"""What the dependency groups say, and what cannot go."""

import keras
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.pruning.structured.rules import Rule, register
from tfcompress.pruning.structured.rules.shapes import blocks


def build(*, normalized=False):
    x = image = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(16, 3, padding="same", name="branch")(layers.ReLU()(x))
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(32, 3, name="wide")(x)
    if normalized:
        x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(image, layers.Dense(10, name="head")(layers.Flatten()(x)), name="net")


def test_groups_and_their_weights():
    groups = tfc.dependency_groups(build())
    first, second = groups.groups
    assert (first.layers, first.size, first.word) == (("stem", "branch"), 16, "channels")
    sliced = {(b.layer, b.owner.name, b.axis, count) for b, count in first.weights}
    assert sliced == {
        ("stem", "kernel", 3, 1),
        ("stem", "bias", 0, 1),
        ("branch", "kernel", 2, 1),
        ("branch", "kernel", 3, 1),
        ("branch", "bias", 0, 1),
        ("wide", "kernel", 2, 1),
    }
    # Each channel is a block of the features that the head reads: one for each of 6 * 6 pixels.
    assert ("head", "kernel", 0, 36) in {
        (b.layer, b.owner.name, b.axis, count) for b, count in second.weights
    }
    assert [(p.layer, p.count, p.reason) for p in groups.pinned] == [
        ("head", 10, "output 'head' of the model")
    ]


def test_printing():
    groups = tfc.dependency_groups(build(), exclude="wide")
    text = str(groups)
    assert "stem, branch" in text
    assert "excluded by 'wide'" in text
    frame = groups.to_frame()
    assert list(frame["can_go"]) == [True, False, False]
    assert list(frame["count"]) == [16, 32, 10]
    assert "<td>stem, branch</td>" in groups._repr_html_()
    assert repr(groups) == text
    assert max(map(len, text.splitlines())) <= 80
    # A bar a group, then one for each layer whose channels cannot go.
    assert [bar.get_width() for bar in groups.plot().patches] == [16, 32, 10]


def test_include_and_exclude():
    model = build()
    assert [g.layers for g in tfc.dependency_groups(model, include="wide").groups] == [("wide",)]
    # A layer that shares its channels keeps those of the others.
    assert len(tfc.dependency_groups(model, exclude="branch")) == 1
    assert len(tfc.dependency_groups(model, include=layers.Conv2D)) == 2
    with pytest.raises(ValueError, match=r"exclude='weide'. Did you mean 'wide'"):
        tfc.dependency_groups(model, exclude="weide")


def test_reasons():
    model = build(normalized=True)
    reasons = {p.layer: p.reason for p in tfc.dependency_groups(model).pinned}
    assert reasons["wide"] == "LayerNormalization 'norm' averages over them"

    x = image = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1, name="before")(x)
    x = layers.Lambda(lambda t: t * 2, name="custom")(x)
    y = layers.Conv2D(2, 1, name="onto_input")(x)
    x = layers.Add(name="sum")([image, y])
    x = layers.Dense(1, activation="softmax", name="head")(layers.GlobalAveragePooling2D()(x))
    reasons = {p.layer: p.reason for p in tfc.dependency_groups(keras.Model(image, x)).pinned}
    assert reasons == {
        "head": "output 'head' of the model",
        "before": "there is no dependency rule for Lambda 'custom'",
        "onto_input": f"Add 'sum' joins them to '{image.name}', which stays",
    }


def test_nothing_can_go():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="only")])
    with pytest.raises(ValueError, match=r"No channel .* 'only': output 'only' of the model"):
        tfc.shrink(model, macs=0.5)


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """A custom layer with a width of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.width), name="w")

    def call(self, x):
        return x @ self.w

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_a_rule_for_a_custom_layer(shrunk_exactly):
    from tfcompress.pruning.structured.coupling import Flow

    @register(Scaled)
    class ScaledRule(Rule):
        def couple(self, node, coupling):
            channels = coupling.fresh(node, node.operation.width)
            coupling.read(node, node.operation.w, 0, node.inputs[0], -1)
            coupling.bind(node, node.operation.w, 1, channels)
            return [Flow([None, channels])]

        def config(self, node, kept):
            return {"width": kept.weight(node.operation.w, 1)}

    model = keras.Sequential([keras.Input((4,)), Scaled(6), layers.ReLU(), Scaled(6), Scaled(2)])
    small = shrunk_exactly(model, groups=2)
    assert [layer.width for layer in small.layers if isinstance(layer, Scaled)] == [3, 3, 2]


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ((None, 4, 4, 8), (None, 128), [([1, 2, 3], [1]), ([0], [0])]),
        ((None, 4, 4, 8), (None, 16, 2, 4), [([3], [2, 3]), ([1, 2], [1]), ([0], [0])]),
        ((None, 8), (None, 1, 1, 8), [([1], [3]), ([0], [0])]),
        ((None, 5, 8), (None, 8), [([2], [1]), ([0, 1], [0])]),
        ((None, None, 8), (None, None, 2, 4), [([2], [2, 3]), ([1], [1]), ([0], [0])]),
        ((None, 6, 4), (None, 4, 6), [([1, 2], [1, 2]), ([0], [0])]),
    ],
)
def test_blocks_of_a_reshape(given, wanted, expected):
    assert blocks(given, wanted) == expected


@keras.saving.register_keras_serializable(package="tests")
class TiedHead(layers.Layer):
    """Multiplies by the table of an embedding, and has no dependency rule."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


def test_weights_that_a_layer_without_a_rule_reads_stay():
    tokens = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(9, 8, name="embedding")
    x = layers.Dense(8, name="back")(layers.Dense(6, name="inner")(embedding(tokens)))
    groups = tfc.dependency_groups(keras.Model(tokens, TiedHead(embedding, name="tied")(x)))
    assert [group.layers for group in groups.groups] == [("inner",)]
    reasons = {pinned.layer: pinned.reason for pinned in groups.pinned}
    assert reasons["embedding"] == "TiedHead 'tied' reads 'embedding/embeddings' as well"


def test_weights_that_are_an_argument_of_an_operation_stay():
    image = keras.Input((6,))
    inner, outer = layers.Dense(8, name="inner"), layers.Dense(8, name="outer")
    x = outer(inner(image))
    x = layers.Dense(2, name="head")(ops.matmul(x, outer.kernel))
    groups = tfc.dependency_groups(keras.Model(image, x))
    assert groups.groups == ()
    reasons = {pinned.layer: pinned.reason for pinned in groups.pinned}
    assert "reads 'outer/kernel' as well" in reasons["inner"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.log(ops.square(x)),
        lambda x: ops.rsqrt(ops.relu(x)),
        lambda x: x / ops.abs(x),
        lambda x: 1.0 / x,
    ],
)
def test_channels_stay_that_are_infinite_once_they_are_zero(function):
    inputs = keras.Input((8,))
    x = function(layers.Dense(8, use_bias=False, name="dense")(inputs))
    groups = tfc.dependency_groups(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    assert groups.groups == ()
    assert "is infinite where they are zero" in groups.pinned[0].reason


@pytest.mark.parametrize("function", [ops.log1p, ops.exp, lambda x: ops.sigmoid(x) / 3.0])
def test_channels_go_that_are_finite_when_they_are_zero(function):
    inputs = keras.Input((8,))
    x = function(layers.Dense(8, name="dense")(inputs))
    groups = tfc.dependency_groups(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    assert [group.layers for group in groups.groups] == [("dense",)]

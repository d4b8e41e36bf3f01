"""Where quantizers go, by LiteRT's rules."""

import keras
from keras import layers, ops

from tfcompress.graph import flatten
from tfcompress.quantization.placement import Placement
from tfcompress.quantization.rules import Role


def place(inputs, outputs):
    graph = flatten(keras.Model(inputs, outputs))
    placement = Placement(graph)
    quantized = {m.tensor.name for g in placement.groups for m in g.members if m.reader is None}
    return placement, quantized


def conv(name, **kwargs):
    return layers.Conv2D(4, 3, padding="same", name=name, **kwargs)


def test_conv_batchnorm_relu_has_one_quantizer_behind_the_relu():
    x = keras.Input((8, 8, 3), name="image")
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(conv("c")(x)))
    placement, quantized = place(x, y)
    assert quantized == {"image", "relu"}
    assert {node.name for node in placement.folded} == {"bn"}


def test_residual_add_has_one_on_each_input_and_one_after_the_relu():
    x = keras.Input((8, 8, 4), name="image")
    a, b = conv("a")(x), conv("b")(x)
    y = ops.relu(a + b)
    _, quantized = place(x, y)
    assert {"image", "a", "b"} < quantized
    assert len(quantized) == 4
    assert not any(name.startswith("add") for name in quantized)


def test_conv_read_twice_is_quantized_itself():
    x = keras.Input((8, 8, 4), name="image")
    a = conv("a")(x)
    y = layers.Add(name="sum")([layers.ReLU(name="relu")(a), a])
    _, quantized = place(x, y)
    assert quantized == {"image", "a", "relu", "sum"}


def test_model_output_is_quantized_even_if_a_relu_also_reads_it():
    x = keras.Input((8, 8, 4), name="image")
    a = conv("a")(x)
    _, quantized = place(x, [a, layers.ReLU(name="relu")(a)])
    assert quantized == {"image", "a", "relu"}


def test_pooling_reshaping_and_padding_share_their_inputs_range():
    x = keras.Input((8, 8, 4), name="image")
    y = layers.MaxPooling2D(2)(conv("a")(x))
    y = layers.Flatten()(layers.ZeroPadding2D(1)(layers.AveragePooling2D(2)(y)))
    placement, quantized = place(x, layers.Dropout(0.5)(y))
    assert quantized == {"image", "a"}
    assert all(
        placement.roles[node] is Role.PASS_THROUGH
        for node in placement.graph.nodes
        if node.name != "a"
    )


def test_concatenation_shares_one_range():
    x = keras.Input((8, 8, 4), name="image")
    y = layers.Concatenate(name="cat")([conv("a")(x), conv("b")(x)])
    placement, quantized = place(x, conv("c")(y))
    assert quantized == {"image", "a", "b", "c"}
    a, b = (n.outputs[0] for n in placement.graph.nodes if n.name in "ab")
    cat = next(n.outputs[0] for n in placement.graph.nodes if n.name == "cat")
    assert placement.group_of(a) is placement.group_of(b) is placement.group_of(cat)


def test_dense_block_requantizes_instead_of_tying_a_knot():
    x = keras.Input((8, 8, 4), name="image")
    a = conv("a", activation="relu")(x)
    y = layers.Concatenate(name="cat")([a, conv("b")(a)])
    placement, quantized = place(x, y)
    assert quantized == {"image", "a", "b"}
    cat = next(n for n in placement.graph.nodes if n.name == "cat")
    a_tensor = cat.inputs[0]
    assert placement.is_requantized(a_tensor, cat)
    order = list(placement.schedule())
    assert len(order) == len(set(order))


def test_concatenation_with_the_older_tensor_last_is_no_knot():
    x = keras.Input((8, 8, 3), name="image")
    stem = conv("stem", activation="relu")(x)
    y = layers.Concatenate(name="cat")([conv("a", activation="relu")(stem), stem])
    placement, quantized = place(x, y)
    assert quantized == {"image", "stem", "a"}
    cat = next(n for n in placement.graph.nodes if n.name == "cat")
    assert placement.is_requantized(cat.inputs[1], cat)
    assert not placement.is_requantized(cat.inputs[0], cat)
    assert list(placement.schedule())


def test_concatenations_that_tie_ranges_into_a_knot_requantize_all_their_inputs():
    x = keras.Input((8, 8, 3), name="image")
    a, b = conv("a")(x), conv("b")(x)
    first = layers.Concatenate(name="first")([a, b])
    c = conv("c")(a)
    d = conv("d")(c)
    # `d` shares no range yet, `c` depends on the group of `a` and `b`.
    y = layers.Concatenate(name="second")([d, c, first])
    placement, _ = place(x, y)
    assert list(placement.schedule())
    second = next(n for n in placement.graph.nodes if n.name == "second")
    assert placement.group_of(second.outputs[0]) is placement.group_of(d_of(placement), second)


def d_of(placement):
    return next(n for n in placement.graph.nodes if n.name == "d").outputs[0]


def test_softmax_inside_a_layer_gets_an_inner_quantizer_and_a_fixed_range():
    x = keras.Input((4,), name="x")
    placement, _ = place(x, layers.Dense(3, activation="softmax", name="d")(x))
    node = placement.graph.nodes[0]
    assert placement.rules[node].inner_quantizers(node) == {"pre_activation": None}
    assert placement.group_of(node.outputs[0]).fixed_range == (0.0, 255 / 256)


def test_float_operation_keeps_its_neighbours_integer():
    x = keras.Input((8, 8, 4), name="image")
    y = conv("b")(layers.Activation("sparsemax", name="sparsemax")(conv("a")(x)))
    placement, quantized = place(x, y)
    node = next(n for n in placement.graph.nodes if n.name == "sparsemax")
    assert placement.roles[node] is Role.FLOAT
    assert quantized == {"image", "a", "sparsemax", "b"}
    assert "sorts" in placement.rules[node].refusal(node)


def test_an_input_that_only_floats_read_is_not_quantized():
    x = keras.Input((8, 8, 4), name="image")
    y = conv("b")(layers.Activation("sparsemax", name="sparsemax")(x))
    _, quantized = place(x, y)
    assert quantized == {"sparsemax", "b"}


def test_shared_convolution_does_not_fold_a_batchnorm():
    shared = layers.BatchNormalization(name="bn")
    x = keras.Input((8, 8, 4), name="image")
    placement, quantized = place(x, shared(conv("b")(shared(conv("a")(x)))))
    assert placement.folded == set()
    assert {"a", "b"} < quantized

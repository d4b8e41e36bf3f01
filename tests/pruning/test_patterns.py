"""Patterns: which weights go together, in the order in which LiteRT stores them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.pruning import Block, Channel, NOfM, Unstructured
from tfcompress.pruning.configured import serialize
from tfcompress.pruning.layouts import stored_layout
from tfcompress.pruning.masks import lowest_removed
from tfcompress.pruning.patterns import get

RNG = np.random.default_rng(0)


def built(layer, *shape):
    if not layer.built:
        layer.build((None, *shape))
    return layer


def pruned(pattern, layer, kernel, units):
    """The mask without the `units` units of least mean magnitude."""
    layout = stored_layout(layer, layer.kernel)
    tensor = ops.convert_to_tensor(kernel)
    arranged = pattern.arrange(tensor, layout)
    kept = ops.ones((arranged.shape[0],), "bool")
    scores = pattern.protect(ops.mean(ops.abs(arranged), axis=1), kept)
    (mask,), _ = lowest_removed([scores], [kept], units)
    return ops.convert_to_numpy(pattern.restore(mask, layout, kernel.shape))


CASES = {
    "dense": (layers.Dense(6), (8,), (1, 0), (6, 8)),
    "conv1d": (layers.Conv1D(6, 3), (9, 8), (2, 0, 1), (6, 24)),
    "conv2d": (layers.Conv2D(6, (3, 2)), (9, 9, 8), (3, 0, 1, 2), (6, 48)),
    "grouped": (layers.Conv2D(6, 3, groups=2), (9, 9, 8), (3, 0, 1, 2), (6, 36)),
    "transposed": (layers.Conv2DTranspose(6, 3), (9, 9, 8), (2, 0, 1, 3), (6, 72)),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), (9, 9, 4), (2, 3, 0, 1), (8, 9)),
    "query": (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 8), (1, 2, 0), (6, 8)),
    "output": (layers.EinsumDense("abcd,cde->abe", (None, 6)), (5, 2, 4), (2, 0, 1), (6, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_stored_order(name):
    layer, shape, order, matrix_shape = CASES[name]
    layout = stored_layout(built(layer, *shape), layer.kernel)
    kernel = RNG.normal(size=layer.kernel.shape).astype("float32")
    matrix = ops.convert_to_numpy(layout.to_matrix(ops.convert_to_tensor(kernel)))
    assert layout.order == order
    assert matrix.shape == matrix_shape
    np.testing.assert_array_equal(matrix, kernel.transpose(order).reshape(matrix_shape))
    again = layout.to_kernel(ops.convert_to_tensor(matrix), kernel.shape)
    np.testing.assert_array_equal(ops.convert_to_numpy(again), kernel)


@pytest.mark.parametrize("name", ["dense", "conv1d", "conv2d", "transposed", "query", "output"])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2"])
def test_n_of_m_keeps_the_largest_of_each_group_of_inputs(name, pattern):
    layer, shape, *_ = CASES[name]
    built(layer, *shape)
    pattern = get(pattern)
    kernel = RNG.normal(size=layer.kernel.shape).astype("float32")
    mask = pruned(pattern, layer, kernel, pattern.most(kernel.size))
    layout = stored_layout(layer, layer.kernel)
    stored, kept = (
        ops.convert_to_numpy(layout.to_matrix(ops.convert_to_tensor(a))).reshape(-1, pattern.m)
        for a in (kernel, mask)
    )
    assert (kept.sum(axis=1) == pattern.n).all()
    best = np.argsort(-np.abs(stored), axis=1)[:, : pattern.n]
    assert np.take_along_axis(kept, best, axis=1).all()


def test_n_of_m_on_the_way_there_and_with_ties():
    layer = built(layers.Dense(4), 8)
    mask = pruned(NOfM(2, 4), layer, np.ones((8, 4), "float32"), 10)
    groups = mask.T.reshape(-1, 4)
    assert (~mask).sum() == 10
    assert groups.sum(axis=1).min() == 2
    assert NOfM(2, 4).share == 0.5
    assert NOfM(2, 4).most(32) == 16


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (2, 4), (3, 2)])
@pytest.mark.parametrize("name", ["dense", "conv2d", "output"])
def test_blocks_lie_in_the_stored_matrix(name, rows, columns):
    layer, shape, *_ = CASES[name]
    built(layer, *shape)
    kernel = RNG.normal(size=layer.kernel.shape).astype("float32")
    units = kernel.size // (rows * columns)
    mask = pruned(Block(rows, columns), layer, kernel, units // 2)
    layout = stored_layout(layer, layer.kernel)
    height, width = layout.matrix_shape(kernel.shape)
    stored, kept = (
        ops.convert_to_numpy(layout.to_matrix(ops.convert_to_tensor(a)))
        .reshape(height // rows, rows, width // columns, columns)
        .transpose(0, 2, 1, 3)
        .reshape(units, -1)
        for a in (np.abs(kernel), mask)
    )
    assert set(kept.sum(axis=1)) == {0, rows * columns}
    gone = stored.mean(axis=1)[~kept[:, 0]]
    assert len(gone) == units // 2
    assert gone.max() <= stored.mean(axis=1)[kept[:, 0]].min()


def test_a_block_of_a_dense_kernel_is_four_inputs_of_one_output():
    layer = built(layers.Dense(2), 8)
    kernel = np.ones((8, 2), "float32")
    kernel[4:8, 1] = 0.1
    mask = pruned(get("1x4"), layer, kernel, 1)
    np.testing.assert_array_equal(~mask, kernel < 1)


@pytest.mark.parametrize("name", ["dense", "conv2d", "transposed", "depthwise", "query"])
def test_channels(name):
    layer, shape, *_ = CASES[name]
    built(layer, *shape)
    kernel = RNG.normal(size=layer.kernel.shape).astype("float32")
    mask = pruned(Channel(), layer, kernel, 2)
    layout = stored_layout(layer, layer.kernel)
    rows = ops.convert_to_numpy(layout.to_matrix(ops.convert_to_tensor(mask)))
    assert sorted(set(rows.mean(axis=1))) == [0, 1]
    assert (~rows[:, 0]).sum() == 2


@pytest.mark.parametrize(
    ("pattern", "layer", "shape", "reason"),
    [
        ("2:4", layers.Conv2D(4, 3), (8, 8, 3), "3 inputs are no whole number of groups of 4"),
        ("2:4", layers.Conv3D(4, 3), (8, 8, 8, 4), "last axis of this kernel is not one of inputs"),
        ("2:4", layers.DepthwiseConv2D(3), (8, 8, 4), "is not one of inputs"),
        ("1x16", layers.Dense(4), (8,), "4 outputs by 8 inputs are no whole blocks"),
        ("4x8", layers.Dense(4), (8,), "a single block"),
        ("channel", layers.Dense(1), (8,), "there is only one channel"),
        ("channel", layers.Embedding(9, 4), (5,), "a row of an embedding is a token"),
        ("channel", layers.LSTMCell(4), (5,), "spread over gates"),
        ("2:4", layers.PReLU(), (8, 8, 4), "not known how LiteRT stores"),
    ],
)
def test_refusals(pattern, layer, shape, reason):
    built(layer, *shape)
    weight = layer.weights[0]
    found = get(pattern).refusal(stored_layout(layer, weight), tuple(weight.shape))
    assert reason in found
    assert Unstructured().refusal(None, tuple(weight.shape)) is None


def test_names_and_configs():
    assert get("2:4") == NOfM(2, 4) == get(serialize(NOfM(2, 4)))
    assert get("1x16") == Block(1, 16) == get((1, 16)) == get([1, 16])
    assert get("filter") == get("channel") == Channel() != Unstructured()
    assert [str(get(n)) for n in ("2:4", "1x4", "channel")] == ["2:4", "1x4", "channel"]
    for wrong, message in [
        ("chanel", "Did you mean 'channel'"),
        ("4:2", "Received: 4:2"),
        ("1x1", "Received: 1x1"),
        (3, "Received: pattern=3"),
        (keras.saving.serialize_keras_object(layers.Dense(2)), "`pattern` must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            get(wrong)

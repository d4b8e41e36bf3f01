import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfcompress.pruning import masks as masks_module
from tfcompress.pruning.masks import (
    count_true,
    find_threshold,
    lowest_removed_by_size,
    mask_of_zeros,
    pruned_count,
    ranked,
    smallest_masks,
)


def prune(arrays, count, masks=None, dtype="float32"):
    weights = [ops.convert_to_tensor(array, dtype=dtype) for array in arrays]
    masks = [np.ones(np.shape(a), bool) for a in arrays] if masks is None else masks
    new, pruned = smallest_masks(weights, [ops.convert_to_tensor(m) for m in masks], count)
    new = [ops.convert_to_numpy(mask) for mask in new]
    assert [int((~mask).sum()) for mask in new] == pruned
    assert [mask.shape for mask in new] == [np.shape(array) for array in arrays]
    return new


@pytest.mark.parametrize(
    ("sizes", "sparsity", "expected"),
    [
        ([100], 0.5, 50),
        ([10], 0.800000018, 8),
        ([10], 0.9999, 9),
        ([1], 0.9, 0),
        ([1000, 10], 0.8, 808),
        ([2, 2, 2], 0.99, 3),
        ([10], 0.0, 0),
    ],
)
def test_pruned_count(sizes, sparsity, expected):
    assert pruned_count(sizes, sparsity) == expected


def test_the_smallest_magnitudes_go():
    weights = np.array([[3.0, -0.1, 0.2], [-4.0, 0.05, -2.0]])
    (mask,) = prune([weights], 3)
    np.testing.assert_array_equal(mask, [[True, False, False], [True, False, True]])


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    sparsity=st.floats(0, 0.999),
    levels=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_counts_are_exact_with_ties(sizes, sparsity, levels, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(-levels, levels + 1, size).astype("float32") for size in sizes]
    count = pruned_count(sizes, sparsity)
    new = prune(arrays, count)
    assert sum(int((~mask).sum()) for mask in new) == count
    assert all(mask.any() for mask in new)
    kept = [np.abs(a[m]) for a, m in zip(arrays, new) if m.sum() > 1]
    gone = [np.abs(a[~m]) for a, m in zip(arrays, new) if (~m).any()]
    if kept and gone and all(m.sum() > 1 for m in new):
        assert min(k.min() for k in kept) >= max(g.max() for g in gone)


def test_ties_are_broken_by_position():
    first, second = prune([np.ones(4), np.ones((2, 3))], 6)
    # The first tensor would lose all four, so one is put back.
    np.testing.assert_array_equal(first, [True, False, False, False])
    np.testing.assert_array_equal(second, [[False, False, False], [True, True, True]])


def test_a_mask_does_not_wander_among_zeros():
    weights = np.zeros(6)
    mask = np.array([True, True, False, True, False, True])
    (new,) = prune([weights], 3, [mask])
    np.testing.assert_array_equal(new, [False, True, False, True, False, True])


def test_pruned_weights_stay_pruned_whatever_their_value():
    weights = np.array([9.0, 1.0, 2.0, 3.0])
    (new,) = prune([weights], 2, [np.array([False, True, True, True])])
    np.testing.assert_array_equal(new, [False, False, True, True])


def test_every_tensor_keeps_its_largest_weight():
    small = np.array([0.1, -0.3, 0.2])
    large = np.linspace(1, 2, 20)
    new_small, new_large = prune([small, large], 12)
    np.testing.assert_array_equal(new_small, [False, True, False])
    assert (~new_large).sum() == 10
    np.testing.assert_array_equal(new_large[:10], np.zeros(10, bool))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_exact_in_every_dtype(dtype):
    rng = np.random.default_rng(0)
    weights = ops.convert_to_tensor(rng.normal(size=(64, 33)), dtype=dtype)
    wide = ops.convert_to_numpy(ops.cast(weights, "float64"))
    (mask,), pruned = smallest_masks([weights], [ops.ones((64, 33), dtype="bool")], 1000)
    mask = ops.convert_to_numpy(mask)
    assert pruned == [1000]
    assert int((~mask).sum()) == 1000
    assert np.abs(wide[mask]).min() >= np.abs(wide[~mask]).max()


def test_infinite_and_nan_weights_rank_as_largest():
    weights = np.array([np.nan, 1.0, np.inf, -2.0, 0.5])
    (mask,) = prune([weights], 3)
    np.testing.assert_array_equal(mask, [True, False, True, False, False])
    with pytest.raises(ValueError, match="training has diverged"):
        prune([np.full(4, np.nan)], 2)


@pytest.mark.parametrize("layout", ["random", "sorted", "periodic", "ties", "mostly_zero"])
@pytest.mark.parametrize("sparsity", [0.001, 0.5, 0.8, 0.9999])
def test_narrowing_is_exact(monkeypatch, layout, sparsity):
    monkeypatch.setattr(masks_module, "HOST_LIMIT", 1000)
    monkeypatch.setattr(masks_module, "SAMPLE_SIZE", 512)
    rng = np.random.default_rng(1)
    values = np.abs(rng.normal(size=30_000)).astype("float32")
    if layout == "sorted":
        values.sort()
    elif layout == "periodic":
        # Every 59th value, the sample's stride, lies apart from the others.
        values[::59] += 10
    elif layout == "ties":
        values = np.round(values, 1)
    elif layout == "mostly_zero":
        values[rng.random(values.size) < 0.9] = 0
    parts = [values[:7_000], values[7_000:]]
    count = pruned_count([part.size for part in parts], sparsity)
    threshold = find_threshold([ops.convert_to_tensor(part) for part in parts], count)
    expected = np.sort(values)[count - 1]
    assert threshold.value == expected
    assert threshold.ties == (values == expected).sum()
    assert threshold.pruned_ties == count - (values < expected).sum()


@pytest.fixture
def copied(monkeypatch):
    """Numbers of values that are copied to the host, copy by copy."""
    counts = []
    original = ops.convert_to_numpy

    def counting(x):
        counts.append(math.prod(x.shape))
        return original(x)

    monkeypatch.setattr(masks_module.ops, "convert_to_numpy", counting)
    return counts


def test_few_values_reach_the_host(copied):
    size = masks_module.HOST_LIMIT * 2
    tensor = ops.convert_to_tensor(
        np.abs(np.random.default_rng(0).normal(size=size)).astype("float32")
    )
    find_threshold([tensor], size // 2)
    assert sum(copied) < 0.1 * size


def test_protected_values_do_not_reach_the_host(copied):
    size = masks_module.HOST_LIMIT * 2
    values = np.random.default_rng(0).random(size).astype("float32")
    values[::2] = np.inf
    tensor = ops.convert_to_tensor(values)
    threshold = find_threshold([tensor], size // 2)
    assert threshold.value == values[1::2].max()
    assert sum(copied) < 0.1 * size


def test_ranks_and_counts():
    values = ranked(ops.convert_to_tensor([1.5, 2.0], dtype="bfloat16"), [True, False])
    np.testing.assert_array_equal(ops.convert_to_numpy(values), [1.5, -np.inf])
    assert count_true(ops.convert_to_tensor([True, False, True])) == 2


def test_units_of_different_sizes_come_nearest_to_the_number():
    rng = np.random.default_rng(0)
    scores = [rng.random(12).astype("float32"), rng.random(30).astype("float32")]
    kept = [np.ones(12, bool), np.arange(30) > 2]
    masks, pruned = lowest_removed_by_size(
        [ops.convert_to_tensor(score) for score in scores],
        [ops.convert_to_tensor(mask) for mask in kept],
        [10, 3],
        100,
    )
    masks = [ops.convert_to_numpy(mask) for mask in masks]
    assert [int((~mask).sum()) for mask in masks] == pruned
    assert abs(10 * pruned[0] + 3 * pruned[1] - 100) <= 5
    assert not masks[1][:3].any()
    worst = max(score[~m & k].max() for score, m, k in zip(scores, masks, kept))
    assert min(score[m].min() for score, m in zip(scores, masks)) >= worst - 1e-9
    few, _ = lowest_removed_by_size(
        [ops.convert_to_tensor(score) for score in scores], kept, [10, 3], 10**6
    )
    assert [int(ops.convert_to_numpy(mask).sum()) for mask in few] == [1, 1]


def test_mask_of_zeros():
    pruned = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]])
    mask = mask_of_zeros(ops.convert_to_tensor(pruned))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask), pruned != 0)
    dirac = np.zeros((3, 3, 4, 4))
    dirac[1, 1] = np.eye(4)
    for dense in (np.ones((2, 3)), np.zeros((2, 3)), np.eye(4), dirac):
        assert mask_of_zeros(ops.convert_to_tensor(dense)) is None

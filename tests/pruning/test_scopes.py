"""Scopes: how a sparsity is shared out."""

import numpy as np
import pytest

from tfcompress.pruning.scopes import ProfileScope, Room, get


def rooms(*shapes, shares=None):
    sizes = [int(np.prod(shape)) for shape in shapes]
    return [
        Room(shape, size - 1, share)
        for shape, size, share in zip(shapes, sizes, shares or [None] * len(shapes))
    ]


SHAPES = [(3, 3, 3, 16), (3, 3, 16, 64), (64, 256), (256, 10)]


def counts(scope, sparsity, shares=None):
    return [count for _, count in scope.shares(rooms(*SHAPES, shares=shares), sparsity)]


def test_global_and_uniform():
    total = sum(room.size for room in rooms(*SHAPES))
    assert get("global").shares(rooms(*SHAPES), 0.8) == [((0, 1, 2, 3), round(0.8 * total))]
    assert counts(get("uniform"), 0.75) == [324, 6912, 12288, 1920]


def test_erdos_renyi_kernel_is_the_formula_with_dense_layers_cut_off():
    found = np.array(counts(get("erdos-renyi-kernel"), 0.5))
    sizes = np.array([room.size for room in rooms(*SHAPES)])
    assert found.sum() == round(0.5 * sizes.sum())
    # By hand: the first layer would have a density above 1; without it, so would the last.
    raw = np.array([sum(shape) for shape in SHAPES])
    assert 0.5 * sizes.sum() / raw.sum() * raw[0] / sizes[0] > 1
    epsilon = (0.5 * sizes.sum() - sizes[0] - sizes[3]) / raw[1:3].sum()
    assert (found[[0, 3]] == 0).all()
    np.testing.assert_allclose(found[1:3], sizes[1:3] - epsilon * raw[1:3], atol=1)


def test_erdos_renyi_kernel_never_gives_back():
    steps = [counts(get("erdos-renyi-kernel"), s) for s in np.linspace(0, 0.99, 34)]
    assert (np.diff(np.array(steps), axis=0) >= -1).all()


def test_a_profile_is_met_exactly_and_scaled_elsewhere():
    shares = [0.1, 0.5, 0.9, 0.0]
    exact = [43, 4608, 14746, 0]
    total = sum(exact) / sum(room.size for room in rooms(*SHAPES))
    assert counts(ProfileScope(), total, shares) == exact
    half = counts(ProfileScope(), total / 2, shares)
    np.testing.assert_allclose(half, np.array(exact) / 2, atol=1)
    more = counts(ProfileScope(), 0.8, shares)
    # What the third layer has no room for goes to the others, and none to the fourth.
    assert more[2] == 64 * 256 - 1
    assert more[3] == 0 or sum(more[:3]) == sum(room.most for room in rooms(*SHAPES)[:3])


def test_mappings_stand_for_profiles():
    assert get({"conv": 0.5}) == ProfileScope()
    with pytest.raises(ValueError, match="Did you mean 'uniform'"):
        get("unifrom")

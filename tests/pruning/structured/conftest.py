"""Checks that hold for every kind of layer."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.graph.macs import count_macs
from tfcompress.pruning.structured import find_shrinkage, zero_channels

TOLERANCE = 1e-4


def randomize(model, seed=0):
    """Give every weight, biases and statistics too, a random value."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name else -0.5
        variable.assign(random.uniform(low, 1.0, variable.shape))


def samples(model, count=3, seed=1):
    """Random inputs of a model."""
    random = np.random.default_rng(seed)
    arrays = [
        random.integers(0, 5, (count, *(n or 6 for n in t.shape[1:])))
        if "int" in str(t.dtype)
        else random.normal(size=(count, *(n or 6 for n in t.shape[1:]))).astype("float32")
        for t in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]


def outputs(model, x):
    """Its outputs in inference, as a flat list of arrays."""
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


@pytest.fixture
def shrunk_exactly():
    """Zero half of the channels of every group, shrink, and check that nothing else changed.

    Returns the smaller model. `groups` says how many groups there must be at least.
    """

    def check(model, groups=1, share=0.5, **arguments):
        randomize(model)
        found = tfc.dependency_groups(model, **arguments)
        assert len(found) >= groups, str(found)
        random = np.random.default_rng(2)
        units = [
            unit
            for group in found.groups
            for unit in random.permutation(group.units)[: max(1, int(group.size * share))]
            if group.size > 1
        ]
        x = samples(model)
        zero_channels(found, units)
        masked = outputs(model, x)
        small = tfc.shrink(model, verbose=False, **arguments)
        for expected, given in zip(masked, outputs(small, x), strict=True):
            np.testing.assert_allclose(given, expected, atol=TOLERANCE, rtol=TOLERANCE)
        figures = find_shrinkage(small)
        removed = sum(before - after for _, before, after in figures.groups)
        assert removed == len(units)
        assert figures.before.parameters == model.count_params()
        assert figures.after.parameters == small.count_params()
        assert figures.before.macs == sum(count_macs(model).values())
        assert figures.after.macs == sum(count_macs(small).values())
        assert units == [] or small.count_params() < model.count_params()
        return small

    return check

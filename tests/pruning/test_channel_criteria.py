"""Criteria of whole channels: batch-norm scales and activity on data."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc

DATA = np.random.default_rng(0).normal(size=(20, 8, 8, 4)).astype("float32")


def gone(model, name):
    """Numbers of the channels that are all zero."""
    kernel = np.asarray(model.get_layer(name).kernel)
    return set(np.flatnonzero((kernel == 0).reshape(-1, kernel.shape[-1]).all(axis=0)))


def reasons(callback):
    return {entry.name: entry.reason for entry in callback.skipped}


def test_channels_of_small_batchnorm_scales_go(convnet, prune):
    model = convnet()
    gamma = np.array([0.5, -0.1, 0.9, 0.2, -0.8, 0.05, 0.7, 0.3], "float32")
    model.get_layer("bn").gamma.assign(gamma)
    callback = prune(model, criterion="batchnorm_scale", sparsity=0.5)
    assert gone(model, "conv1") == set(np.argsort(np.abs(gamma))[:4])
    assert [target.name for target in callback.targets] == ["conv1/kernel"]
    assert "no batch normalization" in reasons(callback)["conv2/kernel"]


def test_apoz_counts_zeros_behind_the_relu(convnet, prune):
    model = convnet()
    model.get_layer("conv2").bias.assign(np.linspace(-1, 1, 16))
    inner = keras.Model(
        model.input, [model.get_layer("relu").output, model.get_layer("conv2").output]
    )
    active = [ops.convert_to_numpy(a > 0).mean(axis=(0, 1, 2)) for a in inner(DATA)]
    callback = prune(model, criterion="apoz", data=DATA, sparsity=0.25, scope="uniform", steps=1)
    assert gone(model, "conv1") == set(np.argsort(active[0])[:2])
    assert gone(model, "conv2") == set(np.argsort(active[1])[:4])
    found = reasons(callback)
    assert found["dense/kernel"] == "no ReLU whose zeros could be counted"
    assert "outputs of the model" in found["logits/kernel"]


def test_mean_activation_in_a_nested_and_shared_model(prune):
    keras.utils.set_random_seed(0)
    shared = layers.Dense(6, activation="tanh", name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared], name="inner")
    inputs = keras.Input((4,))
    joined = layers.Add()([inner(inputs), shared(inputs * 2.0)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(joined))
    data = DATA.reshape(-1, 4)[:64]
    kernel = np.asarray(shared.kernel)
    means = [np.abs(np.tanh(data @ kernel * factor)).mean(axis=0) for factor in (1, 2)]
    model.compile("sgd", "mse")
    prune(model, criterion="mean_activation", data=data, sparsity=0.5, steps=1)
    pruned = (np.asarray(shared.kernel) == 0).all(axis=0)
    assert set(np.flatnonzero(pruned)) == set(np.argsort(sum(means))[:3])


def test_activity_needs_data(convnet, prune):
    with pytest.raises(ValueError, match=r"needs samples: pass `data=x_train\[:512\]`"):
        prune(convnet(), criterion="apoz")
    rows = tfc.plan(convnet(), tfc.callbacks.MagnitudePruning(criterion="apoz")).rows
    kernels = {row.tensor: row.describe("prune") for row in rows if "kernel" in row.tensor}
    assert kernels["conv1/kernel"].endswith("criterion PositiveShare(), pattern channel")
    assert kernels["logits/kernel"].startswith("no: pattern channel")

"""Steering to parameters, bytes, gzip bytes and MACs."""

import gzip
import math

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning
from tfcompress.graph.macs import count_macs
from tfcompress.pruning.goals import MacsGoal, Outcome
from tfcompress.pruning.gzip_goal import GzipGoal
from tfcompress.pruning.targets import prunable_weights

KERNELS = {"conv1": 288, "conv2": 1152, "dense": 256, "logits": 64}
# Multiplications: 64 positions of each convolution, one of each dense layer.
MACS = {"conv1": 64 * 288, "conv2": 64 * 1152, "dense": 256, "logits": 64}


def separable_net(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(layers.Flatten()(x)))


def encoder(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(50, 16, name="embedding")(inputs)
    x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def recurrent(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5, 8))
    x = layers.Bidirectional(layers.LSTM(12, name="lstm"))(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def kernels(model):
    return {name: np.asarray(model.get_layer(name).kernel) for name in KERNELS}


def left(model):
    """Parameters that are not pruned: prunable zeros do not count, others do."""
    state = tfc.pruning.find_state(model)
    zeros = sum(int((np.asarray(mask.variable) == 0).sum()) for mask in state.masks)
    return model.count_params() - zeros


def sparse_bytes(model):
    masks = tfc.pruning.find_state(model).masks
    rest = model.count_params() - sum(mask.size for mask in masks)
    total = 4 * rest
    for mask in masks:
        nonzero = int(np.count_nonzero(np.asarray(mask.variable)))
        total += min(mask.size, math.ceil(mask.size / 8) + nonzero)
    return total


def dense_bytes(model):
    size = sum(target.size for target in tfc.pruning.prunable_weights(model)[0])
    return size + 4 * (model.count_params() - size)


@pytest.mark.parametrize("network", ["convnet", separable_net, encoder, recurrent])
def test_parameters_are_exact_and_bytes_within_two_percent(network, convnet, prune):
    build = convnet if network == "convnet" else network
    model = build()
    asked = model.count_params() // 3
    callback = prune(model, parameters=asked)
    assert left(model) == asked == callback.reached.reached
    model = build()
    asked = round(0.75 * dense_bytes(model))
    callback = prune(model, bytes=asked)
    assert sparse_bytes(model) == callback.reached.reached == pytest.approx(asked, rel=0.02)


def test_macs_of_every_step_count():
    steps = layers.TimeDistributed(layers.Dense(16))
    model = keras.Sequential([keras.Input((5, 8)), steps, layers.Flatten(), layers.Dense(4)])
    masks = tfc.pruning.attach_state(model, prunable_weights(model)[0]).masks
    goal = MacsGoal(100)
    goal.bind(model, masks)
    dense = goal.measure([Outcome(mask, mask.value.value, 0) for mask in masks])
    assert dense == 5 * 8 * 16 + 80 * 4 == sum(count_macs(model).values())


@pytest.mark.parametrize("asked", [0.3, 25_000])
def test_macs(convnet, prune, asked):
    model = convnet()
    callback = prune(model, macs=asked)
    used = sum(MACS[name] * (kernel != 0).mean() for name, kernel in kernels(model).items())
    reached = used / sum(MACS.values()) if asked < 1 else used
    assert callback.reached.reached == pytest.approx(reached)
    assert reached == pytest.approx(asked, rel=0.02)


@pytest.mark.parametrize(
    "scope", ["uniform", "erdos-renyi-kernel", {"conv.*": 0.8, "default": 0.4}]
)
def test_goals_with_other_scopes(convnet, prune, scope):
    model = convnet()
    assert prune(model, parameters=700, scope=scope).reached.reached == pytest.approx(700, abs=2)


def test_gzip_bytes_are_those_of_the_stored_codes(convnet, prune, monkeypatch):
    monkeypatch.setattr(GzipGoal, "_file_bytes", lambda self: 3000)
    model = convnet()
    dense = gzip_of_codes(model)
    callback = prune(model, gzip_bytes=2200)
    # What is in the file beside kernels is what the dense file has beyond them.
    assert callback.reached.reached == pytest.approx(2200, rel=0.02)
    present = gzip_of_codes(model)
    assert present < dense
    assert callback.reached.sparsity > 0.3


def gzip_of_codes(model):
    content = b""
    for kernel in kernels(model).values():
        rows = kernel.transpose(-1, *range(kernel.ndim - 1)).reshape(kernel.shape[-1], -1)
        largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-9)
        content += np.rint(rows / largest * 127).astype("int8").tobytes()
    return len(gzip.compress(content, 9))


@pytest.mark.slow
def test_gzip_bytes_of_the_real_file(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    (x, y), *_ = tfc.datasets.load("digits").train, None
    callback = MagnitudePruning(gzip_bytes=16_000)
    model.fit(x, y, epochs=4, batch_size=64, verbose=0, callbacks=[callback])
    artifact = tfc.convert(model, tmp_path / "model.tflite", calibration=x[:64])
    assert artifact.gzip_bytes == pytest.approx(16_000, rel=0.02)
    assert callback.reached.reached == pytest.approx(artifact.gzip_bytes, rel=0.02)


def test_a_goal_that_is_met_already(convnet, prune):
    callback = prune(convnet(), bytes=10**6)
    assert callback.reached.sparsity == 0.0


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"parameters": 20}, "cannot be pruned to 20 parameters.*At least 72 stay"),
        ({"bytes": 300}, "Pruning alone cannot reach this.*Received: bytes=300"),
        ({"macs": 1e-6}, "Pruning alone cannot reach this"),
    ],
)
def test_goals_out_of_reach(convnet, prune, goal, message):
    with pytest.raises(ValueError, match=message):
        prune(convnet(), **goal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parameters": 0}, "`parameters` must be a number above 0. Received: parameters=0"),
        ({"bytes": "9"}, "Received: bytes='9'"),
        ({"sparsity": 0.5, "macs": 0.5}, "Give one of.*Received: macs, sparsity"),
        ({"pattern": "2:4", "bytes": 100}, "fixes the sparsity at 0.5"),
        ({"pattern": "2:4", "sparsity": 0.6}, "fixes the sparsity at 0.5"),
        ({"pattern": "2:4", "scope": {"a": 0.5}}, "`scope` must be 'global' or 'uniform'"),
        ({"sparsity": {}}, "must name at least one layer"),
        ({"sparsity": {"a": 1.0}}, r"Received: sparsity\['a'\]=1.0"),
        ({"sparsity": {"a": 0.5}, "scope": "uniform"}, "leave `scope` as it is"),
        ({"criterion": "apoz", "pattern": "1x4"}, "use pattern='channel'"),
    ],
)
def test_settings_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)

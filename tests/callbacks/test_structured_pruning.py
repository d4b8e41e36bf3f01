"""Structured pruning during `fit`, and the exact shrink behind it."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import StructuredPruning
from tfcompress.graph.macs import count_macs
from tfcompress.pruning import find_state
from tfcompress.pruning.structured import find_shrinkage


def build(optimizer="adam", seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 1))
    x = y = layers.ReLU()(bn()(layers.Conv2D(16, 3, padding="same", name="stem")(x)))
    y = layers.ReLU()(bn()(layers.Conv2D(16, 3, padding="same", name="one")(y)))
    y = bn(scale=False)(layers.Conv2D(16, 3, padding="same", use_bias=False, name="two")(y))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))
    model = keras.Model(image, layers.Dense(10, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **arguments)
    return model


def bn(**arguments):
    return layers.BatchNormalization(momentum=0.8, **arguments)


def fit(model, digits, callbacks, epochs=2, **arguments):
    x, y = digits.train
    return model.fit(
        x[:512], y[:512], batch_size=64, epochs=epochs, verbose=0, callbacks=callbacks, **arguments
    )


def macs(model):
    return sum(count_macs(model).values())


def test_channels_go_to_zero_and_shrink_removes_exactly_these(digits, tmp_path):
    x = digits.test.x
    model = build(keras.optimizers.AdamW(0.01))
    dense = macs(model)
    callback = StructuredPruning(macs=0.5, round_to=2, frequency=2)
    history = fit(model, digits, [callback], epochs=3).history
    outputs = model.predict(x, verbose=0)

    small = tfc.shrink(model, verbose=False)
    np.testing.assert_allclose(small.predict(x, verbose=0), outputs, atol=1e-4)
    assert macs(small) == history["pruned_macs"][-1] == callback.reached.reached
    assert 0.4 * dense < macs(small) <= 0.5 * dense
    shrinkage = find_shrinkage(small)
    removed = len(shrinkage.units) / shrinkage.before.channels
    assert history["channel_sparsity"][-1] == pytest.approx(removed)
    assert history["channel_sparsity"] == sorted(history["channel_sparsity"])

    # What is saved and loaded shrinks the same.
    model.save(tmp_path / "pruned.keras")
    again = tfc.shrink(keras.models.load_model(tmp_path / "pruned.keras"), verbose=False)
    np.testing.assert_array_equal(again.predict(x, verbose=0), small.predict(x, verbose=0))
    # The smaller model trains on without masks.
    assert find_state(small) is None


def test_the_optimizer_step_keeps_channels_at_zero(digits):
    model = build(keras.optimizers.SGD(0.05, momentum=0.9), steps_per_execution=4)
    callback = StructuredPruning(sparsity=0.5, schedule="constant", end=0.5, round_to=1)
    zero = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            small = tfc.shrink(self.model, verbose=False)
            zero.append(find_shrinkage(small).after.channels)

    fit(model, digits, [callback, Watch()])
    assert set(zero) == {16}
    # The mean of the normalization without a scale stays zero too, so that the channel does.
    unscaled = next(
        layer
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization) and not layer.scale
    )
    assert np.count_nonzero(keras.ops.convert_to_numpy(unscaled.moving_mean) == 0) > 0


def test_timing_and_fading(digits):
    model = build()
    kernel = model.get_layer("one").kernel
    before = keras.ops.convert_to_numpy(kernel)
    callback = StructuredPruning(parameters=0.6, begin=4, end=12, frequency=4, round_to=1)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(callback.state.sparsity)

    model.optimizer.learning_rate = 0.0
    fit(model, digits, [callback, Watch()])
    assert seen[:8] == [0.0] * 8
    assert 0 < seen[8] == seen[11] < seen[12] == seen[-1]
    # Halfway, what was to go next had been halved; in the end it is zero.
    after = keras.ops.convert_to_numpy(kernel)
    gone = np.all(after == 0, axis=(0, 1, 2))
    read = np.all(after == 0, axis=(0, 1, 3))
    assert 0 < gone.sum() < 16
    kept = after[..., ~read, :][..., ~gone]
    np.testing.assert_array_equal(kept, before[..., ~read, :][..., ~gone])


def test_resuming_from_weights_with_masks(digits, tmp_path):
    arguments = {"macs": 0.6, "round_to": 1, "frequency": 2}
    model = build()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            model, digits, [StructuredPruning(**arguments), backup, Stop()], epochs=3, shuffle=False
        )
    pruned = find_state(model).sparsity
    assert pruned > 0
    resumed = build(seed=1)
    callback = StructuredPruning(**arguments)
    history = fit(resumed, digits, [callback, backup], epochs=3, shuffle=False).history
    assert len(history["loss"]) == 2
    small = tfc.shrink(resumed, verbose=False)
    assert 0.5 * macs(resumed) < macs(small) <= 0.6 * macs(resumed)
    # Fading goes on where it was, too.
    uninterrupted = build()
    fit(uninterrupted, digits, [StructuredPruning(**arguments)], epochs=3, shuffle=False)
    for expected, weight in zip(uninterrupted.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_zero_channels_of_a_loaded_model_stay(digits, tmp_path):
    model = build()
    fit(model, digits, [StructuredPruning(sparsity=0.4, round_to=1)])
    model.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    callback = StructuredPruning(sparsity=0.5, round_to=1, begin=0.9, end=1.0)
    history = fit(loaded, digits, [callback]).history
    assert history["channel_sparsity"][0] == pytest.approx(0.4, abs=0.05)
    assert history["channel_sparsity"][-1] == pytest.approx(0.5, abs=0.05)


def test_channels_and_single_weights_are_not_pruned_in_one_training(digits):
    callbacks = [StructuredPruning(macs=0.5), tfc.callbacks.MagnitudePruning(0.5)]
    with pytest.raises(ValueError, match=r"Prune channels first, call `tfcompress\.shrink`"):
        fit(build(), digits, callbacks)


def test_numbers_of_numpy_are_numbers():
    callback = StructuredPruning(macs=np.float32(0.5), round_to=np.int64(4), begin=np.int64(2))
    assert callback.get_config()["macs"] == 0.5
    assert type(callback.round_to) is type(callback.begin) is int
    assert tfc.callbacks.MagnitudePruning(np.float32(0.5)).get_config()["sparsity"] == 0.5


def test_stopping_early_reaches_the_goal_all_the_same(digits):
    model = build()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.stop_training = True

    fit(model, digits, [StructuredPruning(macs=0.5, round_to=1), Stop()])
    assert macs(tfc.shrink(model, verbose=False)) <= 0.5 * macs(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of macs, parameters, bytes, sparsity"),
        ({"macs": 0.5, "sparsity": 0.5}, "not several"),
        ({"macs": 2.5}, "Received: macs=2.5"),
        ({"macs": 0.5, "criterion": "taylor"}, "pass some as `data`"),
        ({"macs": 0.5, "frequency": 0}, "Received: frequency=0"),
        ({"macs": 0.5, "begin": 1.5}, "`begin`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StructuredPruning(**arguments)


def test_a_goal_out_of_reach_is_refused_before_training(digits):
    with pytest.raises(ValueError, match="cannot be met"):
        fit(build(), digits, [StructuredPruning(parameters=20)])


def test_config_round_trip():
    callback = StructuredPruning(
        parameters=0.3,
        criterion="l2",
        schedule="cosine",
        include=layers.Conv2D,
        exclude="stem",
        begin=3,
        end=0.9,
        frequency=5,
        round_to=4,
        exact=False,
        soft=False,
    )
    assert (
        StructuredPruning.from_config(callback.get_config()).get_config() == callback.get_config()
    )

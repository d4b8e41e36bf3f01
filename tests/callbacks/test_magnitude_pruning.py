import copy
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning import (
    ConstantSparsity,
    PolynomialDecay,
    apply_masks,
    attach_state,
    detach_state,
    find_state,
)
from tfcompress.pruning.enforcement import MaskConstraint

STEPS = 8
BATCH = 16


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS * BATCH, 8)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def dense_model(seed=0, **compile_arguments):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="a"),
            layers.Dense(16, activation="relu", name="b"),
            layers.Dense(2, name="logits"),
        ]
    )
    return compiled(model, **compile_arguments)


def compiled(model, optimizer="adam", **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **arguments)
    return model


def fit(model, *callbacks, epochs=3, **arguments):
    x, y = data()
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments)


def kernels(model):
    return [np.asarray(w) for w in model.get_weights() if w.ndim >= 2]


def zeros(model):
    return sum(int((kernel == 0).sum()) for kernel in kernels(model))


def sparsity(model):
    return zeros(model) / sum(kernel.size for kernel in kernels(model))


TOTAL = 8 * 16 + 16 * 16 + 16 * 2


class Recorder(keras.callbacks.Callback):
    """Share of zeros as the training step left it, batch by batch."""

    def __init__(self):
        super().__init__()
        self.sparsities = []
        self.validation = []

    def on_train_batch_end(self, batch, logs=None):
        self.sparsities.append(sparsity(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.validation.append(sparsity(self.model))


class Killed(RuntimeError):
    pass


class Kill(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            raise Killed


# What a training sees


@pytest.mark.parametrize("schedule", ["constant", "polynomial", "cosine"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_final_sparsity_is_exact(schedule, scope):
    model = dense_model()
    fit(model, MagnitudePruning(0.8, schedule=schedule, scope=scope))
    if scope == "global":
        assert zeros(model) == round(0.8 * TOTAL)
    else:
        assert [int((k == 0).sum()) for k in kernels(model)] == [102, 205, 26]


def test_the_training_step_itself_keeps_the_zeros():
    model, recorder = dense_model(), Recorder()
    pruning = MagnitudePruning(0.8, schedule="constant", begin=5, end=10)
    fit(model, recorder, pruning)
    assert recorder.sparsities[:5] == [0.0] * 5
    assert recorder.sparsities[5:] == [round(0.8 * TOTAL) / TOTAL] * (3 * STEPS - 5)


def test_the_schedule_is_followed_step_by_step():
    model, recorder = dense_model(), Recorder()
    fit(model, MagnitudePruning(0.8, begin=4, end=16, frequency=4), recorder)
    schedule = PolynomialDecay()
    for step, seen in enumerate(recorder.sparsities):
        last = 0 if step < 4 else min(step, 16) // 4 * 4
        expected = schedule(max(0, last - 4) / 12, 0.8)
        assert seen == pytest.approx(expected, abs=0.5 / TOTAL), step


def test_sparsity_in_the_logs():
    model = dense_model()
    history = fit(model, MagnitudePruning(0.8, end=1.0), epochs=2).history
    assert len(history["sparsity"]) == 2
    assert history["sparsity"][-1] == round(0.8 * TOTAL) / TOTAL
    layer_sizes = {"a": 128, "b": 256, "logits": 32}
    total = sum(history[f"sparsity/{name}"][-1] * size for name, size in layer_sizes.items())
    assert total == pytest.approx(round(0.8 * TOTAL), abs=1e-9)
    assert 0 < history["sparsity"][0] < history["sparsity"][1]


def test_validation_sees_the_sparse_model():
    model, recorder = dense_model(), Recorder()
    x, y = data(1)
    fit(model, recorder, MagnitudePruning(0.8, end=1.0), epochs=1, validation_data=(x, y))
    assert set(recorder.validation) == {round(0.8 * TOTAL) / TOTAL}


def test_zero_sparsity_trains_bit_identically():
    plain, pruned = dense_model(), dense_model()
    fit(plain)
    fit(pruned, MagnitudePruning(0.0))
    for expected, weight in zip(plain.get_weights(), pruned.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_at_least_one_weight_survives():
    model = dense_model()
    fit(model, MagnitudePruning(0.9999))
    assert [int((kernel != 0).sum()) for kernel in kernels(model)] == [1, 1, 1]


def test_biases_and_excluded_layers_stay_dense():
    model = dense_model()
    pruning = MagnitudePruning(0.5, exclude="logits")
    fit(model, pruning)
    assert (model.get_layer("logits").get_weights()[0] != 0).all()
    assert [target.name for target in pruning.targets] == ["a/kernel", "b/kernel"]
    assert {weight.name for weight in pruning.skipped} == {
        "a/bias",
        "b/bias",
        "logits/bias",
        "logits/kernel",
    }


# Ways to train


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.AdamW(0.01),
        lambda: keras.optimizers.Adam(0.01, use_ema=True),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
        lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    ],
    ids=["momentum", "adamw", "ema", "ema_overwrite", "accumulation", "loss_scale"],
)
def test_optimizers(optimizer):
    model, recorder = dense_model(optimizer=optimizer()), Recorder()
    fit(model, MagnitudePruning(0.75), recorder)
    assert zeros(model) == 0.75 * TOTAL
    assert recorder.sparsities[-1] == 0.75


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps_per_execution": 4},
        {"steps_per_execution": 5},
        {"jit_compile": True},
        {"run_eagerly": True},
    ],
    ids=["executions", "uneven_executions", "jit", "eager"],
)
def test_compile_arguments(arguments):
    model, recorder = dense_model(**arguments), Recorder()
    pruning = MagnitudePruning(0.75, end=1.0)
    fit(model, recorder, pruning)
    assert recorder.sparsities[-1] == 0.75
    assert pruning.state.step == 3 * STEPS


def test_mixed_precision():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, dtype="mixed_float16"),
            layers.Dense(2, dtype="mixed_float16"),
        ]
    )
    fit(
        compiled(model, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))),
        MagnitudePruning(0.5),
    )
    assert sparsity(model) == 0.5


class OwnStep(keras.Model):
    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_own_train_step():
    base, recorder = dense_model(), Recorder()
    model = compiled(OwnStep(base.inputs, base.outputs))
    fit(model, MagnitudePruning(0.75), recorder)
    assert recorder.sparsities[-1] == 0.75


def test_own_training_loop():
    import tensorflow as tf

    model = dense_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruning = MagnitudePruning(0.75)
    pruning.set_model(model)
    pruning.set_params({"epochs": 2, "steps": STEPS})
    pruning.on_train_begin()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    x, y = data()
    for epoch in range(2):
        pruning.on_epoch_begin(epoch)
        for batch in range(STEPS):
            pruning.on_train_batch_begin(batch)
            step(x[batch * BATCH : (batch + 1) * BATCH], y[batch * BATCH : (batch + 1) * BATCH])
            pruning.on_train_batch_end(batch)
        logs = {}
        pruning.on_epoch_end(epoch, logs)
    assert sparsity(model) == logs["sparsity"] == 0.75
    pruning.on_train_end()
    assert sparsity(model) == 0.75
    assert not any(isinstance(v.constraint, MaskConstraint) for v in model.weights)


def test_convolutional_shared_nested_and_recurrent_layers():
    keras.utils.set_random_seed(0)
    shared = layers.Conv1D(4, 3, padding="same", name="shared")
    inner = keras.Sequential([keras.Input((8, 4)), layers.Dense(4), shared], name="inner")
    inputs = keras.Input((8, 4))
    x = shared(inner(inputs))
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.Bidirectional(layers.LSTM(4, name="lstm"))(x)
    model = compiled(keras.Model(inputs, layers.Dense(2)(x)))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 4)).astype("float32"), rng.integers(0, 2, 32)
    pruning = MagnitudePruning(0.5)
    model.fit(x, y, epochs=4, batch_size=16, callbacks=[pruning], verbose=0)
    pruned = [np.asarray(target.variable) for target in pruning.targets]
    assert len(pruned) == 11
    count = sum(int((weight == 0).sum()) for weight in pruned)
    assert count == round(0.5 * sum(weight.size for weight in pruned))


@pytest.mark.slow
def test_mirrored_strategy():
    script = """
        import numpy as np, tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras
        from tfcompress.callbacks import MagnitudePruning
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16),
                                      keras.layers.Dense(2)])
            model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
        seen = []
        record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(
            np.mean(np.concatenate([w.ravel() for w in model.get_weights() if w.ndim > 1]) == 0)))
        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        model.fit(x, x[:, :2], epochs=3, batch_size=16, verbose=0,
                  callbacks=[MagnitudePruning(0.75, end=1.0), record])
        assert seen[-1] == 0.75, seen
        for variable in model.trainable_variables:
            first, second = strategy.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first.numpy(), second.numpy())
        final = np.concatenate([w.ravel() for w in model.get_weights() if w.ndim > 1])
        assert np.mean(final == 0) == 0.75
    """
    run_python(script)


# Beside other callbacks


@pytest.mark.parametrize("pruning_first", [True, False])
def test_early_stopping_restores_sparse_weights(pruning_first):
    model = dense_model()
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=2, restore_best_weights=True, start_from_epoch=0
    )
    pruning = MagnitudePruning(0.75, end=2 * STEPS)
    callbacks = [pruning, stop] if pruning_first else [stop, pruning]
    history = fit(model, *callbacks, epochs=8)
    assert len(history.history["loss"]) < 8
    assert sparsity(model) == 0.75
    assert apply_masks(model).sparsity == 0.75


def test_a_training_that_stops_early_is_still_pruned(caplog):
    model = dense_model()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    with caplog.at_level("WARNING"):
        fit(model, MagnitudePruning(0.75, end=1.0), stop)
    assert sparsity(model) == 0.75
    assert "before pruning ended at step 24" in caplog.text


def test_averaged_weights_are_sparse_in_validation_and_in_checkpoints():
    model, recorder = dense_model(optimizer=keras.optimizers.Adam(0.01, use_ema=True)), Recorder()
    x, y = data(1)
    fit(
        model,
        MagnitudePruning(0.75, schedule="constant", begin=4, end=8),
        keras.callbacks.SwapEMAWeights(),
        recorder,
        validation_data=(x, y),
    )
    assert min(recorder.validation) == 0.75
    assert sparsity(model) == 0.75


def test_every_batch_checkpoint_is_sparse(tmp_path):
    model = dense_model()
    save = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.weights.h5", save_freq=3, save_weights_only=True
    )
    fit(model, MagnitudePruning(0.75, schedule="constant"), save)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        other = dense_model()
        other.optimizer.build(other.trainable_variables)
        other.load_weights(file)
        assert sparsity(other) == 0.75


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_bar_shows_the_sparsity(capsys, verbose):
    fit(dense_model(), MagnitudePruning(0.75), epochs=2, verbose=verbose)
    assert "sparsity: 0.7500" in capsys.readouterr().out


# What it leaves behind


def test_users_constraints_run_first_and_come_back():
    model = dense_model()
    own = keras.constraints.NonNeg()
    kernel = model.get_layer("a").kernel
    kernel.constraint = own
    fit(model, MagnitudePruning(0.5))
    assert kernel.constraint is own
    assert (np.asarray(kernel) >= 0).all()
    assert model.get_layer("b").kernel.constraint is None


def test_a_later_plain_fit_is_free_again():
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    fit(model, epochs=1)
    # Units that no input activates get no gradient and keep their zeros.
    assert sparsity(model) < 0.4


def test_the_model_stays_what_it_was(tmp_path):
    model, plain = dense_model(), dense_model()
    fit(model, MagnitudePruning(0.75))
    assert [w.path for w in model.weights] == [w.path.replace("_1", "") for w in model.weights]
    assert len(model.weights) == len(plain.weights)
    assert len(model.layers) == len(plain.layers)
    assert model.count_params() == plain.count_params()
    assert "train_step" not in vars(model)
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    x, _ = data()
    np.testing.assert_array_equal(model.predict(x, verbose=0), copied.predict(x, verbose=0))


def test_files_load_in_plain_keras(tmp_path):
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    x, _ = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x, verbose=0))
    script = f"""
        import sys, warnings
        sys.modules["tfcompress"] = None
        warnings.simplefilter("error")
        import keras, numpy as np
        folder = {str(tmp_path)!r}
        model = keras.models.load_model(folder + "/model.keras")
        x, y = np.load(folder + "/x.npy"), np.load(folder + "/y.npy")
        np.testing.assert_array_equal(model.predict(x, verbose=0), y)
        assert model.optimizer.iterations == 24
        for weight in model.weights:
            weight.assign(weight * 0)
        model.load_weights(folder + "/model.weights.h5")
        np.testing.assert_array_equal(model.predict(x, verbose=0), y)
    """
    run_python(script, "-W", "error::UserWarning")


def test_an_exception_leaves_no_double_constraint():
    model = dense_model()
    own = keras.constraints.NonNeg()
    model.get_layer("a").kernel.constraint = own
    for _ in range(2):
        with pytest.raises(Killed):
            fit(model, MagnitudePruning(0.5), Kill(5))
    chained = model.get_layer("a").kernel.constraint
    assert isinstance(chained, MaskConstraint)
    assert chained.inner is own
    fit(model, MagnitudePruning(0.5))
    assert model.get_layer("a").kernel.constraint is own


def test_state():
    model = dense_model()
    assert find_state(model) is None
    pruning = MagnitudePruning(0.75)
    with pytest.raises(RuntimeError, match="has no model yet"):
        _ = pruning.state
    fit(model, pruning)
    state = find_state(model)
    assert state is pruning.state
    assert state.step == 3 * STEPS
    assert [mask.name for mask in state.masks] == ["a/kernel", "b/kernel", "logits/kernel"]
    for mask in state.masks:
        np.testing.assert_array_equal(mask.numpy(), np.asarray(mask.variable) != 0)
        assert mask.pruned == (~mask.numpy()).sum()
        assert state.mask_for(mask.variable) is mask
    assert state.mask_for(model.get_layer("a").bias) is None
    assert attach_state(model) is state


def test_apply_masks_finds_weights_that_grew_back():
    model = dense_model()
    assert apply_masks(model) is None
    fit(model, MagnitudePruning(0.75))
    assert apply_masks(model).sparsity == 0.75
    fit(model, epochs=1)
    with pytest.raises(ValueError, match=r"pruned weights are not zero any more \(a/kernel: \d+"):
        apply_masks(model)
    apply_masks(model, repair=True)
    assert sparsity(model) == 0.75
    detach_state(model)
    assert find_state(model) is None
    assert apply_masks(model) is None


# Resuming


def uninterrupted():
    model = dense_model()
    fit(model, MagnitudePruning(0.8), epochs=6)
    return model


@pytest.mark.parametrize("pruning_first", [True, False])
def test_backup_and_restore_continues_exactly(tmp_path, pruning_first):
    def callbacks():
        pair = [
            MagnitudePruning(0.8),
            keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        ]
        return pair if pruning_first else pair[::-1]

    with pytest.raises(Killed):
        fit(dense_model(), *callbacks(), Kill(3 * STEPS + 2), epochs=6)
    resumed = dense_model(seed=7)
    fit(resumed, *callbacks(), epochs=6)
    assert find_state(resumed).step == 6 * STEPS
    for expected, weight in zip(uninterrupted().get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("pruning_first", "kill"), [(True, 3), (True, 11), (True, 31), (False, 6), (False, 17)]
)
def test_killed_between_backups(tmp_path, pruning_first, kill):
    def callbacks():
        pair = [
            MagnitudePruning(0.8, frequency=3),
            keras.callbacks.BackupAndRestore(
                tmp_path / "backup", save_freq=5, delete_checkpoint=False
            ),
        ]
        return pair if pruning_first else pair[::-1]

    with pytest.raises(Killed):
        fit(dense_model(), *callbacks(), Kill(kill), epochs=6)
    saved = kill // 5 * 5
    resumed, seen = dense_model(seed=7), []
    pruning, backup = callbacks() if pruning_first else callbacks()[::-1]
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append((pruning.state.step, zeros(resumed)))
    )
    fit(resumed, *([pruning, backup] if pruning_first else [backup, pruning]), look, epochs=6)
    assert seen[0][0] == saved
    if saved:
        timetable = pruning._timetable
        last_due = timetable.last_due(saved - 1)
        expected = PolynomialDecay()(timetable.progress(last_due), 0.8) * TOTAL
        assert seen[0][1] == int(expected + 0.5)
    assert zeros(resumed) == round(0.8 * TOTAL)
    assert find_state(resumed).sparsity == round(0.8 * TOTAL) / TOTAL


def test_resumed_from_a_keras_file(tmp_path):
    model = dense_model()
    path = tmp_path / "checkpoint.keras"
    with pytest.raises(Killed):
        fit(
            model,
            MagnitudePruning(0.8),
            keras.callbacks.ModelCheckpoint(path),
            Kill(3 * STEPS + 2),
            epochs=6,
        )
    resumed = keras.models.load_model(path)
    assert find_state(resumed) is None
    fit(resumed, MagnitudePruning(0.8), epochs=6, initial_epoch=3)
    for expected, weight in zip(uninterrupted().get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_resumed_from_a_file_of_the_middle_of_an_epoch(tmp_path):
    model = dense_model()
    path = tmp_path / "checkpoint.keras"
    save = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model.save(path) if model.optimizer.iterations == 3 * STEPS + 5 else None
        )
    )
    with pytest.raises(Killed):
        fit(model, MagnitudePruning(0.8), save, Kill(3 * STEPS + 6), epochs=6)
    resumed = keras.models.load_model(path)
    before = zeros(resumed)
    steps = []
    pruning = MagnitudePruning(0.8)
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: steps.append((pruning.state.step, zeros(resumed)))
    )
    fit(resumed, pruning, look, epochs=6, initial_epoch=3)
    assert steps[0] == (3 * STEPS + 5, before)
    assert zeros(resumed) == round(0.8 * TOTAL)


@pytest.mark.parametrize("same_callback", [True, False])
def test_a_second_fit_with_an_initial_epoch_continues(same_callback):
    model = dense_model()
    pruning = MagnitudePruning(0.8, begin=0, end=30)
    with pytest.raises(Killed):
        fit(model, pruning, Kill(2 * STEPS), epochs=6)
    reached = zeros(model)
    follow = pruning if same_callback else MagnitudePruning(0.8, begin=0, end=30)
    recorder = Recorder()
    fit(model, follow, recorder, epochs=6, initial_epoch=2)
    assert recorder.sparsities[0] * TOTAL >= reached
    assert follow.state.step == 6 * STEPS
    assert zeros(model) == round(0.8 * TOTAL)


def test_a_second_fit_from_epoch_zero_starts_anew():
    model = dense_model()
    fit(model, MagnitudePruning(0.5))
    pruning, recorder = MagnitudePruning(0.8), Recorder()
    fit(model, pruning, recorder)
    assert pruning.state.step == 3 * STEPS
    assert recorder.sparsities[0] == 0.5
    assert zeros(model) == round(0.8 * TOTAL)


def test_a_second_fit_may_ask_for_less():
    model = dense_model()
    fit(model, MagnitudePruning(0.8))
    fit(model, MagnitudePruning(0.5))
    assert find_state(model).sparsity == 0.5
    assert sparsity(model) == pytest.approx(0.5, abs=0.05)


def test_masks_of_other_layers_are_kept():
    model = dense_model()
    fit(model, MagnitudePruning(0.75, include="a"))
    fit(model, MagnitudePruning(0.5, include="b"))
    assert (model.get_layer("a").get_weights()[0] == 0).mean() == 0.75
    assert (model.get_layer("b").get_weights()[0] == 0).mean() == 0.5


def test_pruning_that_begins_in_a_later_epoch_of_a_dense_training():
    model, recorder = dense_model(), Recorder()
    fit(model, epochs=3)
    fit(model, MagnitudePruning(0.8, end=0.8), recorder, epochs=6, initial_epoch=3)
    assert recorder.sparsities[0] == 0.0
    assert zeros(model) == round(0.8 * TOTAL)
    with pytest.raises(ValueError, match="end at step 12, but this training of a dense model"):
        fit(dense_model(), MagnitudePruning(0.8, end=12), epochs=6, initial_epoch=3)


def test_weights_of_a_model_that_was_never_pruned_reset_the_state(tmp_path):
    model = dense_model()
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "dense.weights.h5")
    fit(model, MagnitudePruning(0.75))
    model.load_weights(tmp_path / "dense.weights.h5")
    assert find_state(model).sparsity == 0.0
    apply_masks(model)


def test_masks_of_another_architecture():
    model = dense_model()
    fit(model, MagnitudePruning(0.75))
    store = {}
    find_state(model).save_own_variables(store)
    other = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="do not fit this model"):
        attach_state(other).load_own_variables(store)
    restored = attach_state(dense_model(seed=3))
    restored.load_own_variables(store)
    assert restored.sparsity == 0.75
    assert restored.step == 3 * STEPS


# Data of unknown length


def generator():
    x, y = data()
    for start in range(0, len(x), BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


def fit_unknown_length(model, pruning, epochs=3):
    return model.fit(unknown_length(), epochs=epochs, verbose=0, shuffle=False, callbacks=[pruning])


def unknown_length():
    import tensorflow as tf

    signature = (tf.TensorSpec((None, 8)), tf.TensorSpec((None,), tf.int32))
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_unknown_number_of_steps(caplog):
    pruning = MagnitudePruning(0.75, begin=0, end=12)
    model = dense_model()
    fit_unknown_length(model, pruning)
    assert pruning.state.step == 3 * STEPS
    assert sparsity(model) == 0.75
    model = dense_model()
    with caplog.at_level("WARNING"):
        fit_unknown_length(model, MagnitudePruning(0.75, end=99), epochs=2)
    assert "the training turns out to have 16 steps" in caplog.text
    assert sparsity(model) == 0.75


# Bad input


def test_an_unknown_number_of_steps_needs_steps():
    model = dense_model()
    with pytest.raises(ValueError, match="length is unknown"):
        fit_unknown_length(model, MagnitudePruning(0.75))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"at least 0 and below 1. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": 80}, "Received: sparsity=80"),
        ({"sparsity": "0.8"}, "Received: sparsity='0.8'"),
        ({"sparsity": True}, "Received: sparsity=True"),
        ({"sparsity": float("nan")}, "Received: sparsity=nan"),
        ({"schedule": "polinomial"}, "Did you mean 'polynomial'"),
        ({"schedule": None}, "of type NoneType"),
        ({"sparsity": 0.3, "schedule": PolynomialDecay(0.5)}, "initial_sparsity=0.5"),
        ({"scope": "globl"}, "Did you mean 'global'"),
        ({"scope": "layer"}, "'global', 'uniform'. Received: scope='layer'"),
        ({"frequency": 0}, "Received: frequency=0"),
        ({"frequency": 1.5}, "Received: frequency=1.5"),
        ({"begin": -1}, "Received: begin=-1"),
        ({"end": 1.2}, "Received: end=1.2"),
        ({"include": []}, "at least one layer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end": 25}, r"end after the training.*24 steps \(3 epochs of 8\)"),
        ({"begin": 24, "end": 30}, "begin after the training"),
        ({"begin": 0.7}, "end before it begins"),
        ({"include": "c"}, "`include` matches no layer"),
        ({"exclude": "logit"}, "Did you mean 'logits'"),
        ({"exclude": "Dense"}, "no weights to prune. Skipped: a/kernel: excluded by 'Dense'"),
    ],
)
def test_bad_plans_are_refused_before_training(arguments, message):
    model = dense_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, MagnitudePruning(0.5, **arguments))
    for expected, weight in zip(before, model.get_weights()):
        np.testing.assert_array_equal(weight, expected)


def test_models_that_cannot_be_pruned():
    unbuilt = compiled(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="never built"):
        fit(unbuilt, MagnitudePruning(0.5))
    flat = keras.Sequential([keras.Input((8,)), layers.BatchNormalization(), layers.Softmax()])
    with pytest.raises(ValueError, match=r"no weights to prune.*normalization parameter"):
        fit(compiled(flat), MagnitudePruning(0.5))


def test_config_round_trip():
    pruning = MagnitudePruning(
        0.7, PolynomialDecay(0.1), 5, 0.9, 10, "uniform", [layers.Dense, "conv.*"], "logits"
    )
    config = copy.deepcopy(pruning.get_config())
    again = MagnitudePruning.from_config(config)
    assert again.get_config() == pruning.get_config()
    assert again.schedule == PolynomialDecay(0.1)
    assert again.include == ("Dense", "conv.*")
    assert MagnitudePruning(schedule=ConstantSparsity()).schedule == ConstantSparsity()


# JAX


def run_python(script, *flags, **environment):
    result = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(script)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_jax_without_tensorflow(tmp_path):
    script = f"""
        import sys
        sys.modules["tensorflow"] = None
        import keras, numpy as np
        from keras import layers
        from tfcompress.callbacks import MagnitudePruning
        from tfcompress.pruning import apply_masks, find_state
        folder = {str(tmp_path)!r}

        def build(seed=0, rate=0.1, **arguments):
            keras.utils.set_random_seed(seed)
            model = keras.Sequential([keras.Input((8,)), layers.Dense(16, activation="relu"),
                layers.BatchNormalization(), layers.Dropout(rate), layers.Dense(2)])
            model.compile(keras.optimizers.Adam(0.01, use_ema=arguments.pop("ema", False)),
                          "mse", **arguments)
            return model

        def kernels(model):
            return np.concatenate(
                [np.ravel(l.kernel) for l in model.layers if hasattr(l, "kernel")])

        class Seen(keras.callbacks.Callback):
            def __init__(self):
                super().__init__()
                self.values = []
            def on_train_batch_end(self, batch, logs=None):
                self.values.append(float(np.mean(kernels(self.model) == 0)))

        class Kill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 3:
                    raise KeyboardInterrupt

        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        def fit(model, *callbacks, epochs=6):
            return model.fit(x, x[:, :2], epochs=epochs, batch_size=16, verbose=0, shuffle=False,
                             validation_data=(x, x[:, :2]), callbacks=list(callbacks))

        for arguments in ({{}}, {{"steps_per_execution": 2}}, {{"ema": True}},
                          {{"jit_compile": False}}):
            model, seen = build(**arguments), Seen()
            weights = len(model.weights)
            stop = keras.callbacks.EarlyStopping(restore_best_weights=True, patience=100)
            history = fit(model, MagnitudePruning(0.75), seen, stop)
            assert seen.values[-1] == 0.75, (arguments, seen.values)
            assert np.mean(kernels(model) == 0) == 0.75, arguments
            assert history.history["sparsity"][-1] == 0.75
            assert len(model.weights) == weights and len(model.layers) == 4
            assert "train_step" not in vars(model)
            assert apply_masks(model).sparsity == 0.75
        before = kernels(model)
        model.save(folder + "/model.keras")
        np.testing.assert_array_equal(kernels(keras.models.load_model(folder + "/model.keras")),
                                      before)
        fit(model, epochs=1)
        assert np.mean(kernels(model) == 0) < 0.4

        whole = build(rate=0.0)
        fit(whole, MagnitudePruning(0.75))
        backup = lambda: keras.callbacks.BackupAndRestore(folder + "/backup",
                                                          delete_checkpoint=False)
        killed = build(rate=0.0)
        try:
            fit(killed, MagnitudePruning(0.75), backup(), Kill())
        except KeyboardInterrupt:
            pass
        resumed = build(1, rate=0.0)
        fit(resumed, backup(), MagnitudePruning(0.75))
        assert find_state(resumed).step == 24
        np.testing.assert_array_equal(kernels(resumed), kernels(whole))
        fit(killed, MagnitudePruning(0.75))
        assert len(killed.weights) == len(whole.weights)
        assert not [name for name in sys.modules if name.startswith("tensorflow.")]
        print("done")
    """
    assert "done" in run_python(script, KERAS_BACKEND="jax")

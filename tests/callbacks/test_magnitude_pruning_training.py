"""The callback in every way to train: optimizers, compilation, own loops, odd data."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.pruning.enforcement import MaskConstraint

STEPS = 8
BATCH = 16
TOTAL = 8 * 16 + 16 * 16 + 16 * 2


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
def test_optimizers(optimizer, dense_model, fit, zeros, recorder):
    model, recorder = dense_model(optimizer=optimizer()), recorder()
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
def test_compile_arguments(arguments, dense_model, fit, recorder):
    model, recorder = dense_model(**arguments), recorder()
    pruning = MagnitudePruning(0.75, end=1.0)
    fit(model, recorder, pruning)
    assert recorder.sparsities[-1] == 0.75
    assert pruning.state.step == 3 * STEPS


def test_mixed_precision(compiled, fit, sparsity):
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


def test_own_train_step(own_step, dense_model, compiled, fit, recorder):
    base, recorder = dense_model(), recorder()
    model = compiled(own_step(base.inputs, base.outputs))
    fit(model, MagnitudePruning(0.75), recorder)
    assert recorder.sparsities[-1] == 0.75


def test_own_training_loop(dense_model, sparsity, data):
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


def test_convolutional_shared_nested_and_recurrent_layers(compiled):
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
def test_mirrored_strategy(run_python):
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
        model.fit(x, x[:, :2], epochs=2, batch_size=16, verbose=0,
                  callbacks=[MagnitudePruning(0.9, criterion="taylor", end=1.0)])
        final = np.concatenate([w.ravel() for w in model.get_weights() if w.ndim > 1])
        assert np.mean(final == 0) == 0.9
    """
    run_python(script)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_unknown_number_of_steps(caplog, dense_model, sparsity, unknown_length):
    pruning = MagnitudePruning(0.75, begin=0, end=12)
    model = dense_model()
    model.fit(unknown_length(), epochs=3, shuffle=False, verbose=0, callbacks=[pruning])
    assert pruning.state.step == 3 * STEPS
    assert sparsity(model) == 0.75
    model = dense_model()
    with caplog.at_level("WARNING"):
        late = MagnitudePruning(0.75, end=99)
        model.fit(unknown_length(), epochs=2, shuffle=False, verbose=0, callbacks=[late])
    assert "the training turns out to have 16 steps" in caplog.text
    assert sparsity(model) == 0.75

"""`quantize_aware` models of every kind under every kind of training."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.quantization.calibrate import quantizers_of

X = np.random.default_rng(0).random((32, 12)).astype("float32")
Y = np.arange(32) % 3


def dense(dtype=None):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12,), name="x")
    x = layers.Dense(8, use_bias=False, name="hidden", dtype=dtype)(x)
    x = layers.ReLU(dtype=dtype)(layers.BatchNormalization(name="bn", dtype=dtype)(x))
    return keras.Model(inputs, layers.Dense(3, name="logits", dtype="float32")(x))


def compiled(model, optimizer=None, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or "adam", loss, **{"jit_compile": False, **arguments})
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments)


# Ways to train


@pytest.mark.parametrize(
    ("dtype", "optimizer", "arguments"),
    [
        (
            "mixed_bfloat16",
            {"gradient_accumulation_steps": 2, "use_ema": True},
            {"jit_compile": True, "steps_per_execution": 2},
        ),
        ("mixed_float16", {"loss_scale": True}, {"steps_per_execution": 3}),
    ],
    ids=["accumulation_averages_jit_bfloat", "uneven_half"],
)
def test_ways_to_train(dtype, optimizer, arguments):
    scaled = optimizer.pop("loss_scale", False)
    optimizer = keras.optimizers.Adam(0.01, **optimizer)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0) if scaled else optimizer
    qat = compiled(tfc.quantize_aware(dense(dtype), verbose=False), optimizer, **arguments)
    before = qat.get_weights()
    fit(qat)
    # What accumulates gradients counts its updates.
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    assert int(optimizer.iterations) == 4 // accumulated
    for variable, old, new in zip(qat.weights, before, qat.get_weights(), strict=True):
        assert np.all(np.isfinite(new)), variable.path
        # What a ReLU makes begins at 0.
        assert np.any(old != new) or variable.path.endswith("/low"), variable.path


def test_own_train_step(own_step):
    qat = tfc.quantize_aware(dense(), verbose=False)
    own = compiled(own_step(qat.input, qat.output))
    fit(own)
    assert all(q.range is not None for q in quantizers_of(own))
    # Ranges of a few batches clip the far ends of what all of the data show.
    assert np.median(np.abs(tfc.strip(own)(X) - own(X))) < 0.02


def test_backup_resumes_bit_exactly(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    def kill(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    def fresh():
        return compiled(tfc.quantize_aware(dense(), verbose=False))

    whole = fresh()
    fit(whole, epochs=2)
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), backup(), stop, epochs=2)
    resumed = fresh()
    fit(resumed, backup(), epochs=2)
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_mirrored_strategy(run_python):
    script = """
        import numpy as np, tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras
        import tfcompress as tfc
        from tfcompress.quantization.calibrate import quantizers_of
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        with strategy.scope():
            model = keras.Sequential([
                keras.Input((8,)), keras.layers.Dense(16), keras.layers.BatchNormalization(),
                keras.layers.ReLU(), keras.layers.Dense(2)])
            qat = tfc.quantize_aware(model, calibration=x, verbose=False)
            qat.compile("adam", "mse")
        schedule = tfc.callbacks.QuantizationSchedule(freeze_ranges=0.5, freeze_batchnorm=0.5)
        qat.fit(x, x[:, :2], epochs=2, batch_size=16, verbose=0, callbacks=[schedule])
        ranges = [v for q in quantizers_of(qat) for v in q.variables]
        # Batch normalization has statistics of its own in each replica, as in any Keras model.
        for variable in [*qat.trainable_variables, *ranges]:
            first, second = strategy.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first.numpy(), second.numpy())
        tfc.strip(qat)
        # Ranges inside of a layer are refused, as layers of their own they train.
        with strategy.scope():
            one = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, "softmax")])
            two = keras.Sequential(
                [keras.Input((8,)), keras.layers.Dense(2), keras.layers.Softmax()])
            try:
                tfc.quantize_aware(one, calibration=x, verbose=False)
            except ValueError as error:
                assert "activation ranges inside: dense" in str(error), error
            else:
                raise SystemExit("not refused")
            qat = tfc.quantize_aware(two, calibration=x, verbose=False)
            qat.compile("adam", "mse")
        qat.fit(x, x[:, :2], batch_size=16, verbose=0)
    """
    run_python(script)


# Kinds of models


def nested():
    block = keras.Sequential(
        [keras.Input((12,)), layers.Dropout(0.1, name="d"), layers.Dense(12, "relu", name="c")],
        name="block",
    )
    inner = keras.Input((12,))
    outer = keras.Model(inner, block(layers.Dense(12, name="c")(inner)), name="outer")
    inputs = keras.Input((12,), name="x")
    return keras.Model(inputs, layers.Dense(3, name="c")(outer(outer(inputs)))), X


def inputs_and_outputs():
    a, b = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    shared = layers.Dense(6, "relu", name="shared")
    x = layers.Concatenate()([shared(a), shared(b)])
    outputs = {"label": layers.Dense(3)(x), "size": layers.Dense(1, "sigmoid")(x)}
    return keras.Model({"a": a, "b": b}, outputs), {"a": X, "b": 1 - X}


@keras.saving.register_keras_serializable("training_modes")
class Residual(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = layers.Dense(12, "relu"), layers.Dense(3)

    def call(self, inputs, training=None):
        return self.last(inputs + self.first(inputs))


def subclassed():
    model = Residual()
    model(X)
    return model, X


@keras.saving.register_keras_serializable("training_modes")
def double(x):
    return 2 * x


def with_lambda():
    inputs = keras.Input((12,), name="x")
    x = layers.Lambda(double, output_shape=(6,), name="twice")(layers.Dense(6)(inputs))
    return keras.Model(inputs, layers.Dense(3)(x)), X


@pytest.mark.parametrize(
    "make", [nested, inputs_and_outputs, subclassed, with_lambda], ids=lambda make: make.__name__
)
def test_kinds_of_models_train_save_and_reload(make, tmp_path, capsys):
    keras.utils.set_random_seed(0)
    model, data = make()
    qat = tfc.quantize_aware(model, calibration=data)
    printed = capsys.readouterr().out
    assert ("left out: twice (" in printed) == (make is with_lambda)
    qat.compile("adam", "mse", jit_compile=False)
    outputs = model(data)
    before = qat.get_weights()
    qat.train_on_batch(data, keras.tree.map_structure(keras.ops.ones_like, outputs))
    assert all(np.any(a != b) for a, b in zip(before, qat.get_weights()) if a.ndim >= 2)
    expected = qat(data)
    keras.tree.map_structure(
        lambda q, x: np.testing.assert_allclose(q, x, atol=0.15), expected, outputs
    )
    qat.save(tmp_path / "m.keras")
    qat.save_weights(tmp_path / "m.weights.h5")
    again = tfc.quantize_aware(model, verbose=False)
    again.load_weights(tmp_path / "m.weights.h5")
    for copy in (keras.models.load_model(tmp_path / "m.keras"), again):
        keras.tree.map_structure(np.testing.assert_array_equal, copy(data), expected)


def test_dict_inputs_and_outputs_are_exported_under_their_names(tmp_path):
    from tfcompress.evaluation.litert import LiteRTModel

    keras.utils.set_random_seed(0)
    model, data = inputs_and_outputs()
    qat = tfc.quantize_aware(model, calibration=data, verbose=False)
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=data)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 1
    outputs = LiteRTModel(artifact).run(data)
    assert set(outputs) == {"label", "size"}
    assert outputs["label"].shape == (32, 3)
    np.testing.assert_allclose(outputs["size"], qat(data)["size"], atol=1 / 64)

"""`QuantizationAwareTraining` in an ordinary `fit`: what it trains, keeps, saves and leaves."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning, QuantizationAwareTraining
from tfcompress.quantization import find_twin, quantized_form, restore_ranges

STEPS = 4
X = np.random.default_rng(0).random((64, 8, 8, 1)).astype("float32")
Y = np.arange(64) % 3


def build(dtype=None, seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, name="conv", dtype=dtype)(x)
    x = layers.BatchNormalization(name="bn", dtype=dtype)(x)
    x = layers.Flatten()(layers.ReLU(name="relu", dtype=dtype)(x))
    return keras.Model(inputs, layers.Dense(3, name="logits", dtype="float32")(x))


def compiled(model, optimizer=None, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
    model.compile(optimizer, loss, **{"jit_compile": False, **arguments})
    return model


def quantize(**arguments):
    return QuantizationAwareTraining(**{"begin": 0.5, "verbose": False, **arguments})


def fit(model, *callbacks, epochs=2, **arguments):
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def ranges(model):
    return [quantizer.range for quantizer in find_twin(model).quantizers()]


def own_path(variable):
    return "/".join(variable.path.split("/")[-2:])


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def loss_of(model):
    return float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, model(X)))


class Recorder(keras.callbacks.Callback):
    """Notes what every training step left."""

    def __init__(self):
        super().__init__()
        self.weights, self.ranges, self.statistics, self.losses = [], [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())
        self.ranges.append(ranges(self.model))
        self.statistics.append(numpy(self.model.get_layer("bn").moving_mean))

    def on_test_end(self, logs=None):
        self.losses.append(logs["loss"])


# What is trained


def test_the_last_steps_are_those_of_the_wrapped_model(capsys):
    plain, model = (compiled(build(), metrics=["accuracy"]) for _ in range(2))
    recorder = Recorder()
    data = (X, Y)
    callback = quantize(begin=4, calibration=X, verbose=True)
    history = fit(model, callback, recorder, validation_data=data)
    assert "quantized from step 4 on" in capsys.readouterr().out
    expected = fit(plain, epochs=1, validation_data=data)
    for seen, weight in zip(recorder.weights[3], plain.get_weights(), strict=True):
        np.testing.assert_array_equal(seen, weight)
    qat = tfc.quantize_aware(plain, calibration=X, verbose=False)
    compiled(qat, metrics=["accuracy"])
    further = fit(qat, epochs=1, validation_data=data)
    wanted = {own_path(variable): numpy(variable) for variable in qat.weights}
    for variable in model.weights:
        np.testing.assert_allclose(numpy(variable), wanted[own_path(variable)], atol=2e-6)
    # History holds what it holds without the callback, in float first and quantized then.
    assert history.pop("quantizing") == [0, 1]
    assert set(history) == set(expected)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name] + further[name], rtol=1e-4)


def test_a_fit_leaves_a_float_model_whose_twin_is_quantized():
    model, recorder = compiled(build()), Recorder()
    before = [w.path for w in model.weights]
    count, names = model.count_params(), [layer.name for layer in model.layers]
    fit(model, quantize(), recorder, validation_data=(X, Y))
    assert [w.path for w in model.weights] == before
    assert (model.count_params(), [layer.name for layer in model.layers]) == (count, names)
    assert "call" not in model.__dict__
    twin = quantized_form(model)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(loss_of(model), rel=1e-5)
    assert recorder.losses[-1] == pytest.approx(loss_of(twin), rel=1e-5)
    assert abs(loss_of(twin) - loss_of(model)) > 1e-5
    # Both are the same variables.
    assert all(any(v is w for w in twin.variables) for v in model.variables)


def test_begin_inside_an_epoch_and_freezing():
    model, recorder = compiled(build()), Recorder()
    callback = quantize(begin=2, freeze_batchnorm=4, freeze_ranges=6)
    history = fit(model, callback, recorder)
    assert all(r is None for r in recorder.ranges[1])
    assert all(r is not None for r in recorder.ranges[2])
    assert recorder.ranges[4] != recorder.ranges[5]
    assert recorder.ranges[5] == recorder.ranges[6] == recorder.ranges[7]
    assert np.any(recorder.statistics[2] != recorder.statistics[3])
    np.testing.assert_array_equal(recorder.statistics[3], recorder.statistics[7])
    assert np.any(recorder.weights[6][0] != recorder.weights[7][0])
    # The switch before step 4 is made when the second epoch has begun.
    assert history["quantizing"] == [1, 1]
    assert history["batchnorm_frozen"] == history["ranges_frozen"] == [0, 1]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length():
    def batches():
        for start in range(0, 64, 16):
            yield X[start : start + 16], Y[start : start + 16]

    model = compiled(build())
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append("call" in model.__dict__)
    )

    import tensorflow as tf

    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((None, 8, 8, 1), "float32"),
            tf.TensorSpec((None,), "int64"),
        ),
    )
    model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[quantize(begin=6), note])
    assert seen == [False] * 6 + [True] * 2


# Ways to train


class AroundTheModel(keras.Model):
    def train_step(self, data):
        x, y = data
        for layer in self.layers[1:]:
            x = layer(x)
        return {"loss": self.compute_loss(data[0], y, x)}


def in_half():
    return build("mixed_float16")


@pytest.mark.parametrize(
    ("make", "optimizer", "arguments"),
    [
        (
            build,
            {"gradient_accumulation_steps": 2, "use_ema": True},
            {"jit_compile": True, "steps_per_execution": 2},
        ),
        (in_half, {"loss_scale": True}, {"steps_per_execution": 3}),
        (build, {"own_step": True}, {}),
    ],
    ids=["accumulation_averages_jit", "half_uneven", "own_step"],
)
def test_ways_to_train(make, optimizer, arguments, own_step):
    scale, own = optimizer.pop("loss_scale", False), optimizer.pop("own_step", False)
    optimizer = keras.optimizers.Adam(0.01, **optimizer)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0) if scale else optimizer
    model, recorder = make(), Recorder()
    model = own_step(model.input, model.output) if own else model
    compiled(model, optimizer, **arguments)
    fit(model, quantize(), recorder)
    executions = 2 * -(-STEPS // arguments.get("steps_per_execution", 1))
    assert len(recorder.ranges) == executions
    assert all(r is None for r in recorder.ranges[executions // 2 - 1])
    assert all(r is not None for r in recorder.ranges[-1])
    earlier = recorder.weights[executions // 2 - 1]
    changed = [np.any(a != b) for a, b in zip(earlier, recorder.weights[-1])]
    assert all(changed)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    # What accumulates gradients counts its updates.
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    assert int(optimizer.iterations) == 2 * STEPS // accumulated


def test_dropout_and_equal_names_in_nested_models():
    keras.utils.set_random_seed(0)

    def block(name):
        x = inputs = keras.Input((6,))
        x = layers.Dropout(0.5, name="drop")(layers.Dense(6, activation="relu", name="fc")(x))
        return keras.Model(inputs, layers.Activation("tanh", name="act")(x), name=name)

    inputs = keras.Input((64,))
    x = layers.Dense(6, activity_regularizer="l2")(inputs)
    first, second = block("first"), block("second")
    model = compiled(keras.Model(inputs, layers.Dense(3)(second(first(first(x))))))
    model.fit(X.reshape(64, 64), Y, epochs=1, verbose=0, callbacks=[quantize(begin=1)])
    assert first.get_layer("drop").name == second.get_layer("drop").name == "drop"
    assert len(find_twin(model).wrappers()) == 4
    data = X.reshape(64, 64)
    assert np.abs(quantized_form(model).predict(data, verbose=0) - model(data)).max() < 0.1
    assert keras.models.clone_model(model).count_params() == model.count_params()


def test_subclassed_model_with_dict_outputs():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.shared, self.a, self.b = layers.Dense(8, "relu"), layers.Dense(3), layers.Dense(1)

        def call(self, inputs, training=None):
            x = self.shared(inputs["x"])
            return {"a": self.a(x), "b": self.b(x)}

    keras.utils.set_random_seed(0)
    model = Two()
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"a": cross, "b": "mse"}, jit_compile=False)
    data, labels = {"x": X.reshape(64, 64)}, {"a": Y, "b": Y[:, None]}
    model(data)
    model.fit(data, labels, epochs=2, verbose=0, callbacks=[quantize(calibration=data)])
    outputs = quantized_form(model).predict(data, verbose=0)
    assert set(outputs) == {"a", "b"}
    np.testing.assert_allclose(outputs["a"], model(data)["a"], atol=0.1)


@pytest.mark.slow
def test_mirrored_strategy(run_python):
    run_python(
        """
        import numpy as np, tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras
        import tfcompress as tfc
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = keras.Sequential([
                keras.Input((8,)), keras.layers.Dense(16, activation="relu"),
                keras.layers.BatchNormalization(), keras.layers.Dense(2)])
            model.compile("adam", "mse")
        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        quantize = tfc.callbacks.QuantizationAwareTraining(begin=0.5, calibration=x, verbose=False)
        prune = tfc.callbacks.MagnitudePruning(0.75, end=1.0)
        model.fit(x, x[:, :2], epochs=4, batch_size=16, verbose=0, callbacks=[quantize, prune])
        twin = tfc.quantization.find_twin(model)
        for variable in [*model.trainable_variables, *twin.variables()]:
            first, second = strategy.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first.numpy(), second.numpy())
        kernels = [w for w in tfc.strip(model).get_weights() if w.ndim == 2]
        assert np.mean(np.concatenate([k.ravel() for k in kernels]) == 0) >= 0.75
        assert twin.is_ready()
        """
    )


# Beside pruning


@pytest.mark.parametrize("pruning_first", [True, False])
def test_beside_magnitude_pruning(pruning_first):
    model, recorder = compiled(build(), keras.optimizers.AdamW(0.01)), Recorder()
    pruning = MagnitudePruning(0.75, end=0.75)
    callbacks = [pruning, quantize()] if pruning_first else [quantize(), pruning]
    fit(model, *callbacks, recorder, epochs=4)
    kernels = [w for w in recorder.weights[-1] if w.ndim >= 2]
    zeros = sum((w == 0).sum() for w in kernels) / sum(w.size for w in kernels)
    assert zeros == pytest.approx(0.75, abs=1 / sum(w.size for w in kernels))
    for mask in pruning.state.masks:
        layer = next(w for w in find_twin(model).wrappers() if w.layer is mask.layer)
        assert np.all(layer.baked_kernels()[0][~mask.numpy()] == 0)
    assert [v.constraint for v in model.weights if v.constraint] == []


@pytest.mark.parametrize("knows_masks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_zeros_of_a_model_that_was_pruned_before_are_kept(knows_masks):
    model = compiled(build(), keras.optimizers.Adam(0.01, use_ema=True))
    fit(model, MagnitudePruning(0.5), epochs=1)
    if not knows_masks:  # as after `load_model`
        tfc.pruning.detach_state(model)
    zero = [w == 0 for w in model.get_weights()]
    fit(model, quantize(), epochs=1)
    for weight, where in zip(model.get_weights(), zero, strict=True):
        if weight.ndim >= 2:
            assert where.any()
            assert np.all(weight[where] == 0)
    assert [v.constraint for v in model.weights if v.constraint] == []
    tfc.strip(model)


# Saving, resuming, repeating


def test_backup_resumes_with_the_ranges(tmp_path, killed):
    whole = compiled(build(), keras.optimizers.Adam(0.01))
    fit(whole, quantize(begin=2))

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    def kill(epoch, logs):
        if epoch == 1:
            raise killed

    model = compiled(build(), keras.optimizers.Adam(0.01))
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
    with pytest.raises(killed):
        fit(model, quantize(begin=2), backup(), stop)
    resumed = compiled(build(seed=1), keras.optimizers.Adam(0.01))
    fit(resumed, backup(), quantize(begin=2, calibration=X))
    np.testing.assert_array_equal(ranges(resumed), ranges(whole))
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # The killed one is still routed; the next fit puts that right and starts anew.
    fit(model, quantize(begin=1), epochs=1)
    assert "call" not in model.__dict__


def test_checkpoint_holds_the_ranges(tmp_path):
    model = compiled(build())
    path = tmp_path / "best.keras"
    fit(model, keras.callbacks.ModelCheckpoint(path), quantize())
    loaded = keras.models.load_model(path, compile=False)
    assert find_twin(loaded) is None
    assert restore_ranges(loaded, path)
    assert ranges(loaded) == ranges(model)
    np.testing.assert_array_equal(
        quantized_form(loaded).predict(X, verbose=0), quantized_form(model).predict(X, verbose=0)
    )
    # Weights without ranges make it a float model again.
    build().save_weights(tmp_path / "float.weights.h5")
    assert not restore_ranges(build(), tmp_path / "float.weights.h5")
    loaded.load_weights(tmp_path / "float.weights.h5")
    assert quantized_form(loaded) is loaded
    other = build()
    tfc.quantization.attach_twin(other, tfc.Scheme("four", weight_bits=4))
    with pytest.raises(ValueError, match="another scheme"):
        other.load_weights(path)


@pytest.mark.parametrize("stopping_first", [True, False])
def test_weights_that_early_stopping_brings_back_have_their_ranges(stopping_first):
    model = compiled(build())
    stopping = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=2, restore_best_weights=True, start_from_epoch=1
    )
    recorded = []
    noting = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: recorded.append((model.get_weights(), ranges(model)))
    )
    callbacks = [noting, quantize(begin=0.0)]
    callbacks.insert(0 if stopping_first else 2, stopping)
    fit(model, *callbacks, epochs=6)

    # The loss falls, so the best by `max` is the second epoch, two before the last.
    assert len(recorded) == 4
    weights, expected = recorded[1]
    for value, best in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(value, best)
    quantized_form(model)
    assert ranges(model) == expected != recorded[-1][1]


def test_a_second_fit_starts_with_new_ranges_and_a_continued_one_does_not():
    model = compiled(build())
    fit(model, quantize(begin=0, freeze_ranges=1))
    first = ranges(model)
    fit(model, quantize(begin=5, freeze_ranges=5, calibration=X), epochs=3, initial_epoch=2)
    assert ranges(model) == first
    fit(model, quantize(begin=0, calibration=X * 2, freeze_ranges=0))
    assert ranges(model) != first
    # Scales have 16 significant bits.
    assert ranges(model)[0] == pytest.approx((0.0, 2 * X.max()), rel=2**-16)


# What finds the twin


def test_accuracy_export_strip_and_compare(digits, tmp_path):
    x, y = digits.train
    test_x, test_y = digits.test

    def network():
        keras.utils.set_random_seed(0)
        a = inputs = keras.Input((8, 8, 1), name="image")
        a = layers.Conv2D(12, 3, padding="same", use_bias=False, name="conv")(a)
        a = layers.MaxPooling2D(2)(layers.ReLU()(layers.BatchNormalization()(a)))
        a = layers.Dense(10, activation="softmax", name="head")(layers.Flatten()(a))
        model = keras.Model(inputs, a)
        loss = "sparse_categorical_crossentropy"
        model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
        return model

    arguments = {"epochs": 12, "batch_size": 32, "verbose": 0}
    plain, model = network(), network()
    plain.fit(x, y, **arguments)
    model.fit(x, y, callbacks=[quantize(begin=0.7), MagnitudePruning(0.5)], **arguments)
    model.save(tmp_path / "model.keras")
    artifact = tfc.export(model, tmp_path / "m.tflite", calibration=test_x[:256])
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 4
    assert artifact.fidelity.agreement >= 0.995
    entries = {"plain": plain, "twin": model, "file": tmp_path / "model.keras", "int8": artifact}
    report = tfc.compare(entries, (test_x, test_y)).to_frame()
    accuracy = report.set_index("entry")["accuracy"] if "entry" in report else report["accuracy"]
    assert accuracy["twin"] == accuracy["file"]
    assert accuracy["twin"] >= accuracy["plain"] - 0.01
    assert accuracy["int8"] >= accuracy["plain"] - 0.01
    kernel = numpy(tfc.strip(model).get_layer("conv").kernel)
    codes = kernel / (np.abs(kernel).max(axis=(0, 1, 2), keepdims=True) / 127)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": -1}, "begin"),
        ({"begin": 1.5}, "share of the training"),
        ({"scheme": "int9"}, "Did you mean 'int8'"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantizationAwareTraining(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": 1.0}, "nothing would be trained quantized"),
        ({"begin": 9}, "ends after 8 steps"),
        ({"freeze_ranges": 0.2}, "`freeze_ranges` is step 2, before quantization begins at step 4"),
        ({"calibration": X[:, :5]}, "shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(arguments, message):
    model = compiled(build())
    with pytest.raises(ValueError, match=message):
        fit(model, quantize(**arguments))
    assert model.optimizer.iterations == 0


def test_models_that_cannot_be_quantized():
    qat = compiled(tfc.quantize_aware(build(), verbose=False))
    with pytest.raises(ValueError, match="quantization-aware already"):
        fit(qat, quantize())

    class Branching(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layers.Dense(3)

        def build(self, input_shape):
            self.layer.build((None, 8, 8, 1))

        def call(self, inputs):
            return self.layer(inputs) if float(inputs[0, 0, 0, 0]) > -1 else inputs

    model = Branching()
    model.build((None, 8, 8, 1))
    compiled(model, run_eagerly=True)
    with pytest.raises(ValueError, match="Branching"):
        fit(model, quantize())


def test_train_step_around_the_model_is_refused():
    base = build()
    model = compiled(AroundTheModel(base.input, base.output))
    with pytest.raises(ValueError, match="without being called"):
        fit(model, quantize())


def test_training_that_stops_before_begin_is_told(caplog):
    model = compiled(build())

    def stop(epoch, logs):
        model.stop_training = True

    with caplog.at_level("WARNING"):
        fit(model, quantize(begin=5), keras.callbacks.LambdaCallback(on_epoch_end=stop))
    assert "before quantization began at step 5" in caplog.text
    assert quantized_form(model) is model


def test_config_round_trip():
    callback = quantize(begin=7, freeze_ranges=0.9)
    again = QuantizationAwareTraining.from_config(callback.get_config())
    assert again.get_config() == callback.get_config()

"""`QuantizationAwareTraining` with schemes that learn scales and ranges by gradient."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress as tfc
from tfcompress.callbacks import QuantizationAwareTraining
from tfcompress.quantization import find_twin, quantized_form
from tfcompress.training_step import step_wrappers

X = np.random.default_rng(0).normal(size=(64, 6, 6, 1)).astype("float32")
Y = np.arange(64) % 3


def build():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Flatten()(layers.ReLU(name="relu")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def compiled(model, optimizer, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **{"jit_compile": False, **arguments})
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def quantize(scheme, begin=0.5):
    return QuantizationAwareTraining(scheme, begin=begin, calibration=X, verbose=False)


def own_path(variable):
    return "/".join(variable.path.split("/")[-2:])


def numpy(variables):
    return {own_path(v): ops.convert_to_numpy(v) for v in variables}


@pytest.mark.parametrize("scheme", ["int8_lsq", "int8_pact"])
def test_they_become_those_of_the_wrapped_model(scheme):
    plain, model = (compiled(build(), keras.optimizers.SGD(1e-3)) for _ in range(2))
    history = fit(model, quantize(scheme), epochs=2)
    first = fit(plain)
    qat = tfc.quantize_aware(plain, scheme, calibration=X, verbose=False)
    second = fit(compiled(qat, keras.optimizers.SGD(1e-3)))
    np.testing.assert_allclose(history["loss"], first["loss"] + second["loss"], rtol=1e-5)
    learned, wanted = numpy(find_twin(model).learned()), numpy(qat.trainable_variables)
    assert len(learned) == {"int8_lsq": 5, "int8_pact": 3}[scheme]
    for name, value in learned.items():
        assert np.abs(value).max() > 0, name
        np.testing.assert_allclose(value, wanted[name], rtol=1e-3, atol=1e-7, err_msg=name)
    wanted = numpy(qat.weights)
    for name, value in numpy(model.weights).items():
        np.testing.assert_allclose(value, wanted[name], atol=5e-6, err_msg=name)


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2), {"run_eagerly": True}),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)),
            {"steps_per_execution": 2},
        ),
    ],
    ids=["eager_accumulation", "loss_scale_executions"],
)
def test_the_model_and_its_optimizer_stay_what_they_were(optimizer, arguments):
    model = compiled(build(), optimizer(), **arguments)
    fit(model)
    weights, slots = len(model.weights), len(model.optimizer.variables)
    iterations = int(model.optimizer.iterations)
    fit(model, quantize("int8_lsq", begin=0), epochs=2)
    assert (len(model.weights), len(model.optimizer.variables)) == (weights, slots)
    assert int(model.optimizer.iterations) == 3 * iterations > 0
    assert "train_step" not in model.__dict__
    assert "apply" not in vars(model.optimizer)
    # A growth of 1e-2 is a step of Adam, which a loss scale would not change.
    growth = [np.abs(value).max() for value in numpy(find_twin(model).learned()).values()]
    assert 2e-3 < min(growth) < max(growth) < 0.3


def test_the_second_optimizer_follows_the_learning_rate():
    model = compiled(build(), keras.optimizers.SGD(1e-3))
    stop = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 if epoch == 0 else 0.0)
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(numpy(find_twin(model).learned()))
    )
    fit(model, quantize("int8_lsq", begin=0), stop, note, epochs=2)
    for name, value in seen[0].items():
        assert np.abs(value).max() > 0
        np.testing.assert_array_equal(seen[1][name], value)


def test_learned_scales_reach_the_file(tmp_path):
    model = compiled(build(), keras.optimizers.Adam(3e-3))
    fit(model, quantize("int8_lsq"), epochs=4)
    artifact = tfc.export(model, tmp_path / "m.tflite", calibration=X)
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 1
    report = tfc.fidelity(model, artifact, X)
    assert report.worst.max_quanta <= 1.01
    steps = {row.name: row.step for row in report.rows}
    for quantizer in find_twin(model).quantizers():
        low, high = quantizer.range
        assert min(abs(step / (high - low) * 255 - 1) for step in steps.values()) < 1e-4
    assert quantized_form(model) is not model


@pytest.mark.parametrize("first", [True, False], ids=["before_backup", "after_backup"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(first, tmp_path):
    def callbacks():
        ours = quantize("int8_lsq", begin=0.25)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        return [ours, backup] if first else [backup, ours]

    def stop(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    whole, model = (compiled(build(), keras.optimizers.Adam(3e-3)) for _ in range(2))
    fit(whole, quantize("int8_lsq", begin=0.25), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(model, *callbacks(), keras.callbacks.LambdaCallback(on_epoch_begin=stop), epochs=4)
    resumed = compiled(build(), keras.optimizers.Adam(3e-3))
    fit(resumed, *callbacks(), epochs=4)
    wanted = numpy(find_twin(whole).variables())
    for name, value in numpy(find_twin(resumed).variables()).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_training_that_was_interrupted_leaves_nothing_to_the_next(kill, killed):
    model = compiled(build(), keras.optimizers.SGD(1e-3))
    with pytest.raises(killed):
        fit(model, quantize("int8_lsq", begin=0), kill(2))
    wrappers = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: wrappers.append(len(step_wrappers(model)))
    )
    fit(model, quantize("int8_lsq", begin=0), look)
    assert set(wrappers) == {1}
    assert "train_step" not in vars(model)

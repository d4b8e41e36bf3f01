"""The callback on JAX and PyTorch without TensorFlow, and its ranges on TensorFlow after that."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.quantization import quantized_form, restore_ranges

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys

sys.modules["tensorflow"] = None  # any import of it raises
import keras
import numpy as np
from keras import layers, ops

import tfcompress as tfc
from tfcompress.callbacks import MagnitudePruning, QuantizationAwareTraining
from tfcompress.quantization import find_twin, quantized_form

folder = sys.argv[1]
x = np.random.default_rng(0).random((64, 8, 8, 1)).astype("float32")
y = np.arange(64) % 3
fit = {"batch_size": 16, "shuffle": False, "verbose": 0}


def build(optimizer):
    keras.utils.set_random_seed(0)
    a = inputs = keras.Input((8, 8, 1), name="image")
    a = layers.Conv2D(4, 3, name="conv")(a)
    a = layers.ReLU()(layers.BatchNormalization(name="bn")(a))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(a)))
    return compiled(model, optimizer)


def compiled(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


# A float epoch and a quantized one are those of the plain and of the wrapped model.
plain, model = build("sgd"), build("sgd")
quantize = QuantizationAwareTraining(begin=4, calibration=x, verbose=False)
history = model.fit(x, y, epochs=2, validation_data=(x, y), callbacks=[quantize], **fit).history
first = plain.fit(x, y, epochs=1, validation_data=(x, y), **fit).history
qat = compiled(tfc.quantize_aware(plain, calibration=x, verbose=False), "sgd")
second = qat.fit(x, y, epochs=1, validation_data=(x, y), **fit).history
assert history["quantizing"] == [0.0, 1.0]
for name in first:
    np.testing.assert_allclose(history[name], first[name] + second[name], rtol=1e-4, err_msg=name)

# What a scheme learns by gradient, too.
for scheme in ("int8_lsq", "int8_pact"):
    plain, model = build(keras.optimizers.SGD(1e-5)), build(keras.optimizers.SGD(1e-5))
    weights, slots = len(model.weights), len(model.optimizer.variables)
    quantize = QuantizationAwareTraining(scheme, begin=4, calibration=x, verbose=False)
    losses = model.fit(x, y, epochs=2, callbacks=[quantize], **fit).history["loss"]
    losses = np.subtract(losses, plain.fit(x, y, epochs=1, **fit).history["loss"] + [0.0])
    qat = tfc.quantize_aware(plain, scheme, calibration=x, verbose=False)
    compiled(qat, keras.optimizers.SGD(1e-5))
    wanted = [0.0, *qat.fit(x, y, epochs=1, **fit).history["loss"]]
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=1e-5, err_msg=scheme)
    learned = [ops.convert_to_numpy(v) for v in find_twin(model).learned()]
    wanted = [ops.convert_to_numpy(v) for v in qat.trainable_variables if "growth" in v.path]
    assert len(learned) == len(wanted) > 0
    for value, other in zip(learned, wanted):
        assert np.abs(value).max() > 0
        np.testing.assert_allclose(value, other, rtol=1e-2, atol=1e-7, err_msg=scheme)
    assert (len(model.weights), len(model.optimizer.variables)) == (weights, slots)


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.ranges, self.means = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.ranges.append([q.range for q in find_twin(self.model).quantizers()])
        self.means.append(ops.convert_to_numpy(self.model.get_layer("bn").moving_mean))


# Beside pruning, in the middle of an epoch, frozen later.
for reverse in (False, True):
    model, recorder = build("adamw"), Recorder()
    quantize = QuantizationAwareTraining(
        begin=5, freeze_batchnorm=7, freeze_ranges=6, verbose=False
    )
    callbacks = [quantize, MagnitudePruning(0.75, end=0.75)]
    callbacks = callbacks[::-1] if reverse else callbacks
    model.fit(x, y, epochs=3, callbacks=[*callbacks, recorder], **fit)
    assert [r[0] is not None for r in recorder.ranges] == [False] * 5 + [True] * 7
    assert all(r == recorder.ranges[5] for r in recorder.ranges[5:])
    moved = [np.any(a != b) for a, b in zip(recorder.means, recorder.means[1:])]
    assert moved == [True] * 6 + [False] * 5, moved
    kernels = np.concatenate([w.ravel() for w in model.get_weights() if w.ndim >= 2])
    assert np.mean(kernels == 0) == 0.75
    assert len(model.non_trainable_variables) == 2
model.save(folder + "/model.keras")
outputs = quantized_form(model).predict(x, verbose=0)
assert np.abs(outputs - model.predict(x, verbose=0)).max() > 0
np.save(folder + "/outputs.npy", outputs)
# In a Distiller it is the student that is pruned and quantized, with what its scheme learns.
for reverse in (False, True):
    student = build("sgd")
    distillation = keras.distillation.LogitsDistillation(2.0, keras.losses.KLDivergence())
    distiller = keras.distillation.Distiller(build("sgd"), student, distillation)
    quantize = QuantizationAwareTraining("int8_lsq", begin=4, verbose=False)
    callbacks = [MagnitudePruning(0.75, end=0.5), quantize]
    callbacks = callbacks[::-1] if reverse else callbacks
    compiled(distiller, "adam").fit(x, y, epochs=2, callbacks=callbacks, **fit)
    kernels = np.concatenate([w.ravel() for w in student.get_weights() if w.ndim >= 2])
    assert np.mean(kernels == 0) == 0.75
    assert all(np.abs(ops.convert_to_numpy(v)).max() > 0 for v in find_twin(student).learned())
    assert "train_step" not in distiller.__dict__
# Pruned weights come back: after each step, those of the dense copy that were not pruned before it.
xs, ys = np.random.default_rng(1).normal(size=(2, 12, 16, 4)).astype("float32")
keras.utils.set_random_seed(0)
linear = keras.Sequential([keras.Input((4,)), layers.Dense(4, use_bias=False)])
linear.compile(keras.optimizers.SGD(0.5), "mse")
dense, kept, back = np.array(linear.get_weights()[0]), np.ones((4, 4), bool), 0
for a, b in zip(xs, ys):
    new = np.argsort(np.argsort(np.abs(dense).ravel())).reshape(4, 4) >= 8
    back, kept = back + int((new & ~kept).sum()), new
    dense = dense - 0.5 * 2 / b.size * a.T @ (a @ np.where(kept, dense, 0) - b)
regrowth = MagnitudePruning(0.5, "constant", end=1, frequency=1, regrow_until=11)
linear.fit(xs.reshape(-1, 4), ys.reshape(-1, 4), callbacks=[regrowth], **fit)
assert back > 0
np.testing.assert_allclose(linear.get_weights()[0], np.where(kept, dense, 0), atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_callback_without_tensorflow(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    model = keras.models.load_model(tmp_path / "model.keras")
    assert restore_ranges(model, tmp_path / "model.keras")
    x = np.random.default_rng(0).random((64, 8, 8, 1)).astype("float32")
    outputs = np.load(tmp_path / "outputs.npy")
    quantum = (outputs.max() - outputs.min()) / 255
    # Two backends sum in different orders, which can move a value across a rounding boundary.
    assert np.abs(quantized_form(model).predict(x, verbose=0) - outputs).max() <= 4 * quantum

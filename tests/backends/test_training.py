"""Training on JAX and PyTorch where TensorFlow cannot be imported, and exporting on TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys

sys.modules["tensorflow"] = None  # any import of it raises
import keras
import numpy as np
from keras import layers

import tfcompress as tfc
from tfcompress.graph.macs import count_macs

folder = sys.argv[1]
data = np.load(folder + "/data.npz")
x, y = data["x"], data["y"]
keras.utils.set_random_seed(0)
inputs = keras.Input((8, 8, 1), name="image")
a = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(inputs)
a = layers.ReLU()(layers.BatchNormalization()(a))
b = layers.SeparableConv2D(16, 3, padding="same", activation="relu", name="separable")(a)
a = layers.MaxPooling2D(2)(layers.Add()([a, b]))
a = layers.Flatten()(a)
model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(a))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
prune = tfc.callbacks.MagnitudePruning(0.75)
model.fit(x, y, epochs=12, batch_size=32, verbose=0, callbacks=[prune])
qat = tfc.quantize_aware(model, calibration=x[:64], verbose=False)
qat.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
schedule = tfc.callbacks.QuantizationSchedule(freeze_batchnorm=0.5, freeze_ranges=0.5)
qat.fit(x, y, epochs=6, batch_size=32, verbose=0, callbacks=[schedule])
qat.save(folder + "/qat.keras")
# Channels go to zero during the training, and the shrink removes exactly these.
a = b = layers.ReLU()(layers.Conv2D(16, 3, padding="same", name="stem")(inputs))
b = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", name="two")(b))
a = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([a, b])))
wide = keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(a))
wide.compile("adam", "sparse_categorical_crossentropy")
channels = tfc.callbacks.StructuredPruning(macs=0.5, round_to=2, frequency=2)
history = wide.fit(x, y, epochs=2, batch_size=32, verbose=0, callbacks=[channels]).history
narrow = tfc.shrink(wide, verbose=False)
narrow.compile("adam", "sparse_categorical_crossentropy")
shrunk = np.abs(narrow.predict(x[:64], verbose=0) - wide.predict(x[:64], verbose=0)).max()
macs = [sum(count_macs(model).values()) for model in (narrow, wide)]
assert macs[0] == history["pruned_macs"][-1] == channels.reached.reached
further = narrow.fit(x, y, epochs=1, batch_size=32, verbose=0).history["loss"][0]
# Depthwise kernels, the only ones that end in 1, are not pruned.
kernels = np.concatenate(
    [np.ravel(w) for w in tfc.strip(qat).get_weights() if w.ndim >= 2 and w.shape[-1] > 1]
)
np.savez(
    folder + "/seen.npz",
    outputs=qat.predict(x[:256], verbose=0),
    sparsity=np.mean(kernels == 0),
    accuracy=qat.evaluate(x, y, verbose=0)[1],
    shrunk=shrunk,
    macs=macs[0] / macs[1],
    losses=[history["loss"][0], further],
)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_prune_and_quantize_on_a_backend_then_export_on_tensorflow(backend, tmp_path, digits):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    x, y = digits.train
    np.savez(tmp_path / "data.npz", x=x[:640], y=y[:640])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, env=environment, timeout=600
    )
    qat = keras.models.load_model(tmp_path / "qat.keras", compile=False)
    seen = np.load(tmp_path / "seen.npz")
    assert seen["accuracy"] > 0.9
    assert seen["sparsity"] >= 0.75
    assert seen["shrunk"] < 1e-4
    assert 0.4 < seen["macs"] <= 0.5
    assert seen["losses"][1] < seen["losses"][0]
    # Two backends sum in different orders, which can move a value across a rounding boundary.
    assert np.abs(qat.predict(x[:256], verbose=0) - seen["outputs"]).max() <= 4 / 256
    artifact = tfc.export(qat, tmp_path / "m.tflite", calibration=x[:256])
    assert artifact.float_islands == []
    assert artifact.fidelity.max_quanta <= 4
    assert artifact.fidelity.agreement >= 0.995

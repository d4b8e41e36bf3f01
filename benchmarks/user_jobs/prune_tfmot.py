"""Pruning to 80 % zeros with tfmot, then post-training int8 with TensorFlow's converter."""

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from ai_edge_litert.interpreter import Interpreter


def compress(model, x, y, path):
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 0, len(x) // 32, frequency=5)
    model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=2, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    model = tfmot.sparsity.keras.strip_pruning(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x[:256])
    path.write_bytes(converter.convert())
    # Verified:
    run = Interpreter(str(path)).get_signature_runner()
    (name,) = run.get_input_details()
    found = np.array([next(iter(run(**{name: image[None]}).values()))[0] for image in x[:256]])
    expected = model.predict(x[:256], verbose=0)
    if np.mean(found.argmax(-1) == expected.argmax(-1)) < 0.97:
        raise ValueError("The file does not compute what the model computes.")

"""Post-training int8 with TensorFlow's converter."""

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter


def compress(model, x, y, path):
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

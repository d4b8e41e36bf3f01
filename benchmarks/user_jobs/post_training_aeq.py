"""Post-training int8 with ai-edge-quantizer, on the converter's float file."""

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def compress(model, x, y, path):
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    (name,) = Interpreter(str(path)).get_signature_runner().get_input_details()
    engine = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    ranges = engine.calibrate({"serving_default": [{name: image[None]} for image in x[:256]]})
    engine.quantize(ranges).export_model(str(path), overwrite=True)
    # Verified:
    run = Interpreter(str(path)).get_signature_runner()
    scale, zero_point = run.get_input_details()[name]["quantization"]
    codes = np.clip(np.round(x[:256] / scale) + zero_point, -128, 127).astype("int8")
    found = np.array([next(iter(run(**{name: code[None]}).values()))[0] for code in codes])
    expected = model.predict(x[:256], verbose=0)
    if np.mean(found.argmax(-1) == expected.argmax(-1)) < 0.97:
        raise ValueError("The file does not compute what the model computes.")

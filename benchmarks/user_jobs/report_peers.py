"""Scores, sizes and latency of a model and its file by hand, as none of the peers reports them."""

import gzip
import json
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from sklearn.metrics import classification_report, confusion_matrix


def report(model, path, x, y, output):
    model.save("float.keras")
    run = Interpreter(str(path)).get_signature_runner()
    (name,) = run.get_input_details()
    entries = {"float": ("float.keras", lambda image: model(image).numpy())}
    entries["int8"] = (path, lambda image: next(iter(run(**{name: image}).values())))
    document, baseline = {}, None
    for entry, (file, predict) in entries.items():
        outputs, seconds = [], []
        for image in x:
            start = time.perf_counter()
            outputs.append(predict(image[None])[0])
            seconds.append(time.perf_counter() - start)
        classes = np.argmax(outputs, -1)
        baseline = classes if baseline is None else baseline
        with open(file, "rb") as stream:
            content = stream.read()
        document[entry] = {
            "scores": classification_report(y, classes, output_dict=True),
            "confusion": confusion_matrix(y, classes).tolist(),
            "agreement": float(np.mean(classes == baseline)),
            "bytes": len(content),
            "gzip_bytes": len(gzip.compress(content)),
            "latency_ms": 1000 * float(np.median(seconds)),
        }
    with open(output, "w") as stream:
        json.dump(document, stream)

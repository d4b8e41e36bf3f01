import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tfcompress.evaluation import EntryResult, Latency, LayerWeight, Report
from tfcompress.evaluation.results import (
    CalibrationBin,
    ClassScores,
    Disagreement,
    LayerResult,
    WeightHistogram,
)

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


def entry(name, accuracy, size, zeros, milliseconds, confusion):
    """Return a made-up result of a classifier of three classes."""
    nonzeros = round(1000 * (1 - zeros))
    return EntryResult(
        name=name,
        kind="tflite",
        source=f"{name}.tflite",
        figures={
            "accuracy": accuracy,
            "precision": accuracy,
            "recall": accuracy,
            "f1": accuracy,
            "agreement": 0.9,
            "calibration_error": None,
            "parameters": 1010,
            "nonzeros": nonzeros + 10,
            "sparsity": 1 - (nonzeros + 10) / 1010,
            "macs": 64_000,
            "bytes": size,
            "gzip_bytes": size // 2,
            "ratio": 4000 / size,
            "gzip_ratio": 4000 / size,
            "float_ops": 0,
            "latency_ms": milliseconds,
            "latency_p95_ms": 1.5 * milliseconds,
        },
        latency=Latency(tuple(milliseconds * np.linspace(0.9, 1.6, 20)), 1, "LiteRT"),
        weights=[
            LayerWeight(
                "net/conv/kernel;net/bn", (10, 10, 10), "int8", 1000, nonzeros, 1000, 10, "CONV_2D"
            ),
            LayerWeight("net/conv/bias", (10,), "int32", 10, 10, 40, 10, "CONV_2D"),
        ],
        per_class=[ClassScores(accuracy, accuracy, accuracy, 10) for _ in range(3)],
        confusion=confusion,
        disagreements=[Disagreement(index=4, label=0, baseline=0, predicted=2, margin=0.25)],
        disagreement_count=3,
        layers=[
            LayerResult(
                "net/conv/kernel;net/bn", "CONV_2D", 1010, nonzeros + 10, 8.0, 1040, 64_000, 41.5
            )
        ],
        histograms=[
            WeightHistogram(
                "net/conv/kernel;net/bn", True, -7.5, 1.0, (*range(15),), None, zeros, 15, 0.01
            )
        ],
        calibration=[CalibrationBin(10, 0.5, 0.4), CalibrationBin(20, 0.95, 1.0)],
    )


@pytest.fixture
def report():
    return Report(
        task="classification",
        data="shapes (test split)",
        samples=30,
        classes=["circle", "square", "<star>"],
        entries=[
            entry("float", 0.9, 4000, 0.0, 0.20, [[9, 1, 0], [1, 9, 0], [0, 1, 9]]),
            entry("int8", 0.875, 1250, 0.0, 0.10, [[8, 1, 1], [1, 9, 0], [0, 1, 9]]),
            entry("pruned & int8", 0.925, 1000, 0.8, 0.11, [[10, 0, 0], [1, 9, 0], [0, 1, 9]]),
        ],
        examples={"4": PIXEL},
        settings={"threads": 1, "batch_size": 64},
        metadata={"seed": 7, "environment": {"python": "3.11", "packages": {"keras": "3.15"}}},
    )


def convert(model, calibration=None):
    """Return .tflite bytes of a Keras model; full int8 with calibration samples."""
    tf = pytest.importorskip("tensorflow")
    specs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]
    function = tf.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False))
    with warnings.catch_warnings():
        # The converter warns about its own interpreter.
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function(*specs)]
        )
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        return converter.convert()


@pytest.fixture(scope="session")
def to_tflite():
    return convert


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small digits classifier as a model, a .keras file, and float and int8 .tflite files."""
    import keras

    from tfcompress import datasets

    keras.utils.set_random_seed(0)
    data = datasets.load("digits")
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*data.train, epochs=6, batch_size=32, verbose=0)
    folder: Path = tmp_path_factory.mktemp("trained")
    model.save(folder / "float.keras")
    (folder / "float.tflite").write_bytes(convert(model))
    (folder / "int8.tflite").write_bytes(convert(model, data.train.x[:64]))
    return SimpleNamespace(
        model=model,
        data=data,
        folder=folder,
        keras=folder / "float.keras",
        float=folder / "float.tflite",
        int8=folder / "int8.tflite",
    )

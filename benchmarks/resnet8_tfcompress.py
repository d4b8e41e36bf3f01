"""The tfcompress stages of the ResNet8 benchmark; started by resnet8_cifar10.py."""

from pathlib import Path
from typing import Any

import cifar10
import fine_tuning
import models
import numpy as np
import scores


def versions() -> dict[str, str]:
    """Versions of what these stages ran on."""
    import keras
    import tensorflow as tf

    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def run(stage: str, work: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Runs a stage, such as `float32`, `pqat` or `qat_w4a8`, and returns its figures.

    A model that an earlier run trained but could not export is not trained again.

    Args:
        stage: The technique and, behind an underscore, the scheme where it is not int8.
        work: The work folder; float weights are read from it, files and models written to it.
        arrays: The decoded CIFAR-10.

    Returns:
        The figures of `scores.score`, `keras_sparsity` and the versions.
    """
    import keras

    import tfcompress as tfc

    path = work / f"tfcompress_{stage}.tflite"
    trained = work / f"tfcompress_{stage}.keras"
    calibration = fine_tuning.calibration(arrays)
    if trained.exists():
        model = keras.models.load_model(trained)
    elif stage == "pqat":
        model = keras.models.load_model(work / "tfcompress_prune.keras")
    else:
        model = models.resnet8(keras)
        with np.load(work / "float.npz") as stored:
            model.set_weights([stored[name] for name in stored.files])

    technique, _, scheme = stage.partition("_")
    if technique in ("qat", "pqat") or scheme:
        if not trained.exists():
            model = tfc.quantize_aware(model, scheme or "int8", calibration=calibration)
            if technique != "ptq":
                schedule = tfc.callbacks.QuantizationSchedule(freeze_batchnorm=0.5)
                policy = fine_tuning.POLICIES[technique]
                fine_tuning.fine_tune(model, keras, arrays, policy, [schedule])
            model.save(trained)
        tfc.export(model, path, io="int8", calibration=calibration)
    else:
        if stage == "prune" and not trained.exists():
            pruning = tfc.callbacks.MagnitudePruning(
                sparsity=fine_tuning.SPARSITY,
                schedule="polynomial",
                criterion="lamp",
                begin=fine_tuning.PRUNING_BEGIN,
                end=fine_tuning.PRUNING_END,
                frequency=fine_tuning.PRUNING_FREQUENCY,
                regrow_until=fine_tuning.REGROW_UNTIL,
            )
            fine_tuning.fine_tune(model, keras, arrays, fine_tuning.POLICIES[stage], [pruning])
            model.save(trained)
        kind = "float32" if stage == "float32" else "int8"
        tfc.convert(tfc.strip(model), path, scheme=kind, calibration=calibration, io=kind)

    images = cifar10.scaled(arrays["x_test"])
    outputs = model.predict(images, batch_size=500, verbose=0)
    return {
        **scores.score(path, outputs, images, arrays["y_test"]),
        "keras_sparsity": scores.kernel_sparsity(tfc.strip(model)),
        "versions": versions(),
    }

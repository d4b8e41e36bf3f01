"""The tfmot stages of the ResNet8 benchmark; started by resnet8_cifar10.py in a child process.

tfmot works on tf_keras only, and TensorFlow chooses its Keras once a process, when it is imported:
hence the child process with TF_USE_LEGACY_KERAS=1.
"""

from pathlib import Path
from typing import Any

import cifar10
import fine_tuning
import models
import numpy as np
import scores


def versions() -> dict[str, str]:
    """Versions of what these stages ran on."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    return {
        "tensorflow": tf.__version__,
        "tf_keras": tf_keras.__version__,
        "tensorflow-model-optimization": tfmot.__version__,
    }


def _converted(model: Any, path: Path, representative: np.ndarray | None) -> None:
    """Converts to int8 inputs and outputs; with `representative` images by calibration."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if representative is not None:
        converter.representative_dataset = lambda: ([image[None]] for image in representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def run(stage: str, work: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Runs `ptq`, `qat`, `prune` or `pqat` and returns its figures.

    Args:
        stage: The stage, without the name of the library.
        work: The work folder; float weights are read from it, files and weights written to it.
        arrays: The decoded CIFAR-10.

    Returns:
        The figures of `scores.score`, `keras_sparsity` and the versions.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras

    start = "tfmot_prune.npz" if stage == "pqat" else "float.npz"
    with np.load(work / start) as stored:
        weights = [stored[name] for name in stored.files]
    model = models.resnet8(tf_keras)
    model.set_weights(weights)

    representative = fine_tuning.calibration(arrays)
    if stage == "qat":
        model = tfmot.quantization.keras.quantize_model(model)
        fine_tuning.fine_tune(model, tf_keras, arrays, fine_tuning.POLICIES["qat"], [])
        representative = None
    elif stage == "prune":
        policy = fine_tuning.POLICIES["prune"]
        steps = fine_tuning.steps_per_epoch(arrays) * policy.epochs
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=fine_tuning.SPARSITY,
            begin_step=round(fine_tuning.PRUNING_BEGIN * steps),
            end_step=round(fine_tuning.PRUNING_END * steps),
            frequency=fine_tuning.PRUNING_FREQUENCY,
        )
        model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
        fine_tuning.fine_tune(model, tf_keras, arrays, policy, callbacks)
        model = tfmot.sparsity.keras.strip_pruning(model)
        np.savez(work / "tfmot_prune.npz", *model.get_weights())
    elif stage == "pqat":
        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        model = tfmot.quantization.keras.quantize_apply(
            annotated, tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
        )
        fine_tuning.fine_tune(model, tf_keras, arrays, fine_tuning.POLICIES["pqat"], [])
        representative = None

    path = work / f"tfmot_{stage}.tflite"
    _converted(model, path, representative)
    images = cifar10.scaled(arrays["x_test"])
    outputs = model.predict(images, batch_size=500, verbose=0)
    return {
        **scores.score(path, outputs, images, arrays["y_test"]),
        "keras_sparsity": scores.kernel_sparsity(model),
        "versions": versions(),
    }

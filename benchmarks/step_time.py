"""Step time of pruning and of quantization-aware training beside the same float model.

    python benchmarks/step_time.py
    KERAS_BACKEND=jax python benchmarks/step_time.py --models resnet50,transformer

The variants live in one process and take turns step by step, so that a busy machine slows all of
them alike; the figures are medians. Nothing here needs TensorFlow when Keras runs on another
backend, so that GPU machines with JAX or PyTorch alone can run it. On TensorFlow, tfmot is measured
beside the same models of tf_keras, in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import models
import numpy as np
import record

GOALS = {"pruning": 1.05, "qat": 1.35}
WARM_UP_STEPS = 5
SEED = 0


class Variant:
    """A compiled model and the callbacks that `fit` would call, driven one step at a time.

    Args:
        keras: The module of the model, `keras` or `tf_keras`.
        model: A model of it, not compiled.
        callbacks: Callbacks of the technique under test.
        steps: Steps that will be taken, which schedules are planned for.
        jit: Whether XLA compiles the step.
    """

    def __init__(
        self, keras: ModuleType, model: Any, callbacks: list[Any], steps: int, jit: bool
    ) -> None:
        self.model = model
        self.model.compile(
            keras.optimizers.Adam(1e-4),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=jit,
        )
        self.callbacks = keras.callbacks.CallbackList(
            callbacks, model=model, epochs=1, steps=steps, verbose=0
        )
        self.seconds: list[float] = []
        self.callbacks.on_train_begin()
        self.callbacks.on_epoch_begin(0)

    def step(self, index: int, inputs: np.ndarray, labels: np.ndarray) -> None:
        """Takes one training step, callbacks included, and records its duration."""
        start = time.perf_counter()
        self.callbacks.on_train_batch_begin(index)
        logs = self.model.train_on_batch(inputs, labels, return_dict=True)
        self.callbacks.on_train_batch_end(index, logs)
        self.seconds.append(time.perf_counter() - start)


def random_batch(model: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and labels for a classifier: values in `[0, 1)`, or token ids below 100."""
    generator = np.random.default_rng(SEED)
    shape = (size, *model.inputs[0].shape[1:])
    if "int" in str(model.inputs[0].dtype):
        inputs = generator.integers(0, 100, shape)
    else:
        inputs = generator.random(shape, dtype=np.float32)
    return inputs, generator.integers(0, model.outputs[0].shape[-1], size)


Technique = tuple[Any, list[Any]]


def tfcompress_variants(model: Any, inputs: np.ndarray) -> dict[str, Technique]:
    """Models and callbacks of tfcompress, made of a float model."""
    import keras

    import tfcompress as tfc

    return {
        "pruning": (
            keras.models.clone_model(model),
            [tfc.callbacks.MagnitudePruning(sparsity=0.8, frequency=20)],
        ),
        "qat": (
            tfc.quantize_aware(model, "int8", calibration=inputs[:32]),
            [tfc.callbacks.QuantizationSchedule()],
        ),
    }


def tfmot_variants(model: Any, inputs: np.ndarray) -> dict[str, Technique]:
    """Models and callbacks of tfmot, made of a float model of tf_keras."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    sparsity = tfmot.sparsity.keras
    schedule = sparsity.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=40, frequency=20)
    copy = tf_keras.models.clone_model(model)
    return {
        "pruning": (
            sparsity.prune_low_magnitude(copy, pruning_schedule=schedule),
            [sparsity.UpdatePruningStep()],
        ),
        "qat": (tfmot.quantization.keras.quantize_model(model), []),
    }


def measured(
    keras: ModuleType, library: str, name: str, batch_size: int, steps: int, jit: bool
) -> dict[str, Any]:
    """Times float, pruning and QAT of one model.

    Args:
        keras: The module to build with, `keras` or `tf_keras`.
        library: `"tfcompress"` or `"tfmot"`.
        name: A function of `models`.
        batch_size: Samples a step.
        steps: Steps that are timed for each variant, after 5 that are not.
        jit: Whether XLA compiles the step.

    Returns:
        Median milliseconds a step and the ratio to float for each variant, with the goals.
    """
    keras.utils.set_random_seed(SEED)
    model = getattr(models, name)(keras)
    inputs, labels = random_batch(model, batch_size)
    total = steps + WARM_UP_STEPS
    make = tfcompress_variants if library == "tfcompress" else tfmot_variants
    techniques: dict[str, Technique] = {"float": (model, []), **make(model, inputs)}
    variants = {
        label: Variant(keras, technique, callbacks, total, jit)
        for label, (technique, callbacks) in techniques.items()
    }
    for index in range(total):
        for variant in variants.values():
            variant.step(index, inputs, labels)
    baseline = statistics.median(variants["float"].seconds[WARM_UP_STEPS:])
    result: dict[str, Any] = {"library": library, "model": name, "batch_size": batch_size}
    result |= {"steps": steps, "jit": jit}
    for label, variant in variants.items():
        median = statistics.median(variant.seconds[WARM_UP_STEPS:])
        result[label] = {
            "milliseconds": round(median * 1e3, 2),
            "mean_milliseconds": round(statistics.fmean(variant.seconds[WARM_UP_STEPS:]) * 1e3, 2),
            "ratio": round(median / baseline, 3),
        }
        if label in GOALS and library == "tfcompress":
            result[label]["goal"] = GOALS[label]
            result[label]["met"] = result[label]["ratio"] <= GOALS[label]
    return result


def run_tfmot(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Times tfmot in a process in which tf_keras is TensorFlow's Keras, and returns its rows."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "tfmot.json"
        command = [sys.executable, __file__, "--child", str(found), "--models", arguments.models]
        command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
        subprocess.run(command, env={**os.environ, "TF_USE_LEGACY_KERAS": "1"}, check=True)
        return json.loads(found.read_text())


def report_line(result: dict[str, Any]) -> str:
    """One measurement in words."""
    ratios = ", ".join(
        f"{label} {result[label]['ratio']}x (goal {goal}x)" for label, goal in GOALS.items()
    )
    compiler = "XLA" if result["jit"] else "no XLA"
    milliseconds = result["float"]["milliseconds"]
    return f"{result['library']}, {result['model']}, {compiler}: float {milliseconds} ms, {ratios}"


def main() -> None:
    """Times every model with and without XLA and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/step_time.json"))
    parser.add_argument("--models", default="resnet8,mobilenet_tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--policy", default="float32", help="dtype policy; default: %(default)s")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if arguments.child:
        import tf_keras

        rows = []
        for name in names:
            sizes = (arguments.batch_size, arguments.steps)
            rows.append(measured(tf_keras, "tfmot", name, *sizes, jit=False))
            print(report_line(rows[-1]), flush=True)
        record.write(arguments.child, rows)
        return

    import keras

    backend = keras.config.backend()
    keras.config.set_dtype_policy(arguments.policy)
    results = []
    for name in names:
        # JAX compiles always; PyTorch's compiler is not what Keras' users train with.
        for jit in {"tensorflow": (False, True), "jax": (True,), "torch": (False,)}[backend]:
            sizes = (arguments.batch_size, arguments.steps)
            results.append(measured(keras, "tfcompress", name, *sizes, jit))
            print(report_line(results[-1]), flush=True)
    packages = ["keras", backend, "numpy"]
    if backend == "tensorflow" and arguments.policy == "float32":
        results += run_tfmot(arguments)
        packages += ["tf_keras", "tensorflow-model-optimization"]
    summary = {
        **record.circumstances(" ".join(["python", *sys.argv]), packages),
        "backend": backend,
        "policy": arguments.policy,
        "results": results,
    }
    record.write(arguments.output, summary)


if __name__ == "__main__":
    main()

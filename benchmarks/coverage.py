"""Which networks of `keras.applications` train quantized and become int8 files, in both libraries.

    python benchmarks/coverage.py

The smallest network of every family, with random weights: each is wrapped, trained for a step and
exported. Every network runs in a process of its own and keeps its result in the work folder: a
benchmark that was stopped continues where it was.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

LIBRARIES = ("tfcompress", "tfmot")
BATCH = 4
CLASSES = 10
PACKAGES = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
)


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of `keras.applications`.

    Attributes:
        function: Name of the function that builds it.
        size: Height and width of the images in pixels.
        arguments: Further arguments of the function.
    """

    function: str
    size: int = 64
    arguments: tuple[tuple[str, Any], ...] = ()

    def build(self, keras: Any) -> Any:
        """Builds it with random weights and ten classes.

        Args:
            keras: The module to build with, `keras` or `tf_keras`.
        """
        keras.utils.set_random_seed(0)
        return getattr(keras.applications, self.function)(
            input_shape=(self.size, self.size, 3),
            weights=None,
            classes=CLASSES,
            **dict(self.arguments),
        )


# The families, each by its smallest network; minimum sizes are those that the networks state.
NETWORKS = {
    network.function: network
    for network in (
        Network("MobileNet", arguments=(("alpha", 0.25),)),
        Network("MobileNetV2", arguments=(("alpha", 0.35),)),
        Network("MobileNetV3Small"),
        Network("EfficientNetB0"),
        Network("EfficientNetV2B0"),
        Network("ResNet50"),
        Network("ResNet50V2"),
        Network("DenseNet121"),
        Network("InceptionV3", size=96),
        Network("Xception", size=96),
        Network("NASNetMobile"),
        Network("ConvNeXtTiny"),
        Network("VGG16"),
        Network("InceptionResNetV2", size=96),
    )
}


def images(network: Network) -> np.ndarray:
    """Random images with values from 0 to 255, which networks with preprocessing inside expect."""
    shape = (BATCH, network.size, network.size, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def train_step(
    keras: Any, model: Any, x: np.ndarray, loss: Any = "sparse_categorical_crossentropy"
) -> float:
    """Compiles a model and returns the loss of one training step."""
    model.compile(keras.optimizers.SGD(1e-4), loss=loss)
    return float(model.train_on_batch(x, np.arange(BATCH) % CLASSES))


def run_tfcompress(network: Network, path: Path, done: Callable[[str, Any], None]) -> None:
    """Wraps, trains and exports a network with tfcompress."""
    import keras

    import tfcompress as tfc

    x = images(network)
    model = network.build(keras)
    done("parameters", model.count_params())
    start = time.perf_counter()
    plan = tfc.plan(model, "int8")
    qat = tfc.quantize_aware(model, "int8", verbose=False)
    done("wrap_seconds", round(time.perf_counter() - start, 2))
    done("planned_float", sorted({row.layer for row in plan.rows if row.skipped}))
    done("loss", train_step(keras, qat, x))
    start = time.perf_counter()
    artifact = tfc.export(qat, path, calibration=x, tolerance=1e9)
    done("export_seconds", round(time.perf_counter() - start, 2))
    done("float_operators", artifact.float_islands)
    done("requantized", len(artifact.requants))
    done("bytes", artifact.bytes)
    done("mean_quanta", artifact.fidelity.mean_quanta)
    done("max_quanta", artifact.fidelity.max_quanta)


def run_tfmot(network: Network, path: Path, done: Callable[[str, Any], None]) -> None:
    """Wraps, trains and converts a network with tfmot."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from tfcompress import inspect_file

    model = network.build(tf_keras)
    done("parameters", model.count_params())
    start = time.perf_counter()
    qat = tfmot.quantization.keras.quantize_model(model)
    done("wrap_seconds", round(time.perf_counter() - start, 2))
    done("loss", train_step(tf_keras, qat, images(network)))
    start = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(qat)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    done("export_seconds", round(time.perf_counter() - start, 2))
    found = inspect_file(path)
    done("float_operators", found.float_islands)
    done("requantized", len(found.requants))
    done("bytes", found.bytes)


def run_child(library: str, name: str, work: Path) -> None:
    """Runs one network in this process and writes what was reached, also when it fails."""
    facts: dict[str, Any] = {}
    run = run_tfcompress if library == "tfcompress" else run_tfmot
    try:
        run(NETWORKS[name], work / f"{library}_{name}.tflite", facts.__setitem__)
    except Exception as error:  # a failure is a result: the other networks go on
        facts["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    record.write(work / f"{library}_{name}.json", facts)


def start_child(library: str, name: str, work: Path) -> None:
    """Runs one network in a process with the Keras that the library needs."""
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    environment.pop("TF_USE_LEGACY_KERAS", None)
    if library == "tfmot":
        environment["TF_USE_LEGACY_KERAS"] = "1"
    command = [sys.executable, __file__, "--child", f"{library}:{name}", "--work-dir", str(work)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode and not (work / f"{library}_{name}.json").exists():
        facts = {"error": f"the process died with status {finished.returncode}"}
        record.write(work / f"{library}_{name}.json", facts)


def verdict(facts: dict[str, Any]) -> str:
    """One cell of the table: how far a network came."""
    if "error" in facts:
        reached = "exporting" if "loss" in facts else "training"
        if "wrap_seconds" not in facts:
            reached = "wrapping"
        return f"fails at {reached}"
    count = len(facts["float_operators"])
    return "int8" if not count else f"{count} float operators"


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| network | " + " | ".join(LIBRARIES) + " | wrap s | export s |",
        "|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        row = [results[library].get(name) for library in LIBRARIES]
        cells = [facts["verdict"] if facts else "not run" for facts in row]
        ours = row[0] or {}
        times = [str(ours.get(key, "")) for key in ("wrap_seconds", "export_seconds")]
        lines.append(f"| {name} | " + " | ".join([*cells, *times]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and writes the report after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path("runs/coverage"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/coverage.json"))
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="run the networks again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        library, name = arguments.child.split(":")
        run_child(library, name, arguments.work_dir)
        return
    names = arguments.networks.split(",")
    if unknown := sorted(set(names) - set(NETWORKS)):
        sys.exit(f"--networks: unknown {', '.join(unknown)}. Known: {', '.join(NETWORKS)}")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for name in names:
        for library in LIBRARIES:
            result = arguments.work_dir / f"{library}_{name}.json"
            if arguments.force or not result.exists():
                result.unlink(missing_ok=True)
                start_child(library, name, arguments.work_dir)
            print(f"{name}, {library}: {verdict(json.loads(result.read_text()))}", flush=True)
    results = {
        library: {
            name: {"verdict": verdict(facts), **facts}
            for name in NETWORKS
            if (path := arguments.work_dir / f"{library}_{name}.json").exists()
            for facts in [json.loads(path.read_text())]
        }
        for library in LIBRARIES
    }
    circumstances = record.circumstances("python benchmarks/coverage.py", PACKAGES)
    record.write(arguments.output, {**circumstances, "results": results})
    print(table(results))


if __name__ == "__main__":
    main()

"""What wrapping a model costs: seconds as it gets deeper, and memory while it trains.

    python benchmarks/scaling.py

Wrapping is timed on chains of convolutions, one process for all. Memory is the highest resident
size of a process that only builds and trains one model, since no process gives memory back.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import record

LAYERS = (50, 100, 200, 400)
KINDS = ("float", "qat")
STEPS = 3
GOALS = {"wrap_seconds": 5.0, "export_seconds": 60.0, "memory_ratio": 2.5}


def chain(keras: Any, depth: int) -> Any:
    """A model of `depth` layers: convolution, batch normalization and ReLU in turn."""
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 8))
    for index in range(depth):
        if index % 3 == 0:
            x = layers.Conv2D(8, 3, padding="same")(x)
        else:
            x = layers.BatchNormalization()(x) if index % 3 == 1 else layers.ReLU()(x)
    return keras.Model(inputs, x)


def wrap_times(repeats: int) -> list[dict[str, Any]]:
    """The fastest of several wrappings of each chain, in CPU seconds.

    Args:
        repeats: Wrappings of each chain; they take turns.
    """
    import keras

    import tfcompress as tfc

    seconds: dict[int, list[float]] = {depth: [] for depth in LAYERS}
    models = {depth: chain(keras, depth) for depth in LAYERS}
    for _ in range(repeats):
        for depth, model in models.items():
            start = time.process_time()
            tfc.quantize_aware(model, "int8", verbose=False)
            seconds[depth].append(time.process_time() - start)
    return [
        {
            "layers": depth,
            "seconds": round(min(found), 3),
            "milliseconds_a_layer": round(1e3 * min(found) / depth, 2),
        }
        for depth, found in seconds.items()
    ]


def mobilenet() -> dict[str, Any]:
    """Wraps and exports MobileNetV2 in its full size, in wall seconds."""
    import tempfile

    import keras

    import tfcompress as tfc

    images = np.random.default_rng(0).uniform(-1, 1, (4, 224, 224, 3)).astype("float32")
    model = keras.applications.MobileNetV2(weights=None)
    start = time.perf_counter()
    qat = tfc.quantize_aware(model, "int8", verbose=False)
    wrapped = time.perf_counter()
    tfc.quantization.calibrate(qat, images)
    calibrated = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = tfc.export(qat, Path(folder) / "m.tflite", calibration=images, tolerance=1e9)
        exported = time.perf_counter()
    return {
        "wrap_seconds": round(wrapped - start, 2),
        "calibrate_seconds": round(calibrated - wrapped, 2),
        "export_seconds": round(exported - calibrated, 2),
        "float_operators": artifact.float_islands,
    }


def memory(kind: str, batch_size: int) -> float:
    """Trains MobileNetV2 at 96 pixels for a few steps and returns this process' peak in MiB."""
    import keras

    import tfcompress as tfc

    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (batch_size, 96, 96, 3)).astype("float32")
    model = keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=10)
    if kind == "qat":
        model = tfc.quantize_aware(model, "int8", verbose=False)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    for _ in range(STEPS):
        model.train_on_batch(images, np.arange(batch_size) % 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def start_child(kind: str, batch_size: int) -> float:
    """Runs `memory` in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, "--batch-size", str(batch_size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Measures everything and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(memory(arguments.child, arguments.batch_size))
        return
    peaks = {kind: round(start_child(kind, arguments.batch_size)) for kind in KINDS}
    ratio = round(peaks["qat"] / peaks["float"], 2)
    print(f"memory: {peaks['float']} MiB in float, {peaks['qat']} MiB in QAT, {ratio}x")
    network = mobilenet()
    print(f"MobileNetV2: {network}")
    times = wrap_times(arguments.repeats)
    for row in times:
        print(f"{row['layers']} layers: {row['seconds']} s, {row['milliseconds_a_layer']} ms each")
    summary = {
        **record.circumstances("python benchmarks/scaling.py", ("tensorflow", "keras")),
        "goals": GOALS,
        "memory": {"batch_size": arguments.batch_size, **peaks, "ratio": ratio},
        "mobilenet_v2": network,
        "wrapping": times,
    }
    record.write(arguments.output, summary)


if __name__ == "__main__":
    main()

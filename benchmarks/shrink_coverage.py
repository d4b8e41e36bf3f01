"""Which networks of `keras.applications` lose half of their operations by removing channels.

    python benchmarks/shrink_coverage.py

The smallest network of every family, with random weights, is shrunk to half of its operations,
compared with the dense network in which the same channels are zero, and trained for a step; with
`--export` it is also wrapped for quantization-aware training and exported as int8. Every network
keeps its result in the work folder: a benchmark that was stopped continues where it was.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import record
from coverage import NETWORKS, PACKAGES, Network, images, train_step

GOAL = 0.5
COLUMNS = ("groups", "cannot_go", "parameters", "macs", "error", "loss", "seconds", "int8")


def randomize(keras: Any, model: Any, x: np.ndarray) -> None:
    """Gives vectors, such as biases, values that are not all alike, and normalizes for them."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            low = 0.8 if "gamma" in variable.name or "variance" in variable.name else -0.2
            variable.assign(random.uniform(low, low + 0.4, variable.shape))
    # Statistics of real activations: with others, deep random networks forget their input.
    normalizations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0
    model(x, training=True)
    for layer in normalizations:
        layer.momentum = 0.99


def predict(model: Any, x: np.ndarray) -> np.ndarray:
    """The logits of a model."""
    return np.asarray(model(x, training=False))


def measure(network: Network, export: Path | None) -> dict[str, Any]:
    """Shrinks one network and returns its figures."""
    import keras

    import tfcompress as tfc
    from tfcompress.pruning.structured import find_shrinkage, zero_channels

    keras.utils.clear_session()
    arguments = (*network.arguments, ("classifier_activation", None))
    model = Network(network.function, network.size, arguments).build(keras)
    x = images(network)
    randomize(keras, model, x)
    start = time.perf_counter()
    small = tfc.shrink(model, macs=GOAL, verbose=False)
    seconds = time.perf_counter() - start
    shrinkage = find_shrinkage(small)
    groups = tfc.dependency_groups(model)
    zero_channels(groups, shrinkage.units)
    masked, given = predict(model, x), predict(small, x)
    facts: dict[str, Any] = {
        "groups": len(groups),
        "cannot_go": sum(entry.count for entry in groups.pinned),
        "parameters": [shrinkage.before.parameters, shrinkage.after.parameters],
        "counted_parameters": small.count_params(),
        "macs": [shrinkage.before.macs, shrinkage.after.macs],
        "error": float(np.max(np.abs(masked - given)) / np.max(np.abs(masked))),
        "seconds": round(seconds, 1),
    }
    if export is not None:
        qat = tfc.quantize_aware(small, "int8", calibration=x, verbose=False)
        artifact = tfc.export(qat, export, calibration=x, tolerance=1e9)
        facts["int8"] = {"bytes": artifact.bytes, "float_operators": artifact.float_islands}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    facts["loss"] = round(train_step(keras, small, x, loss), 3)
    return facts


def row(name: str, facts: dict[str, Any]) -> str:
    """One line of the table."""
    if "failed" in facts:
        return f"| {name} | {facts['failed'].strip().splitlines()[-1]} |"
    shares = []
    for key in ("parameters", "macs"):
        before, after = facts[key]
        shares.append(f"{before:,} → {after:,} ({after / before:.1%})")
    int8 = facts.get("int8")
    islands = "" if int8 is None else f"{len(int8['float_operators'])} float operators"
    cells = [
        facts["groups"],
        facts["cannot_go"],
        *shares,
        f"{facts['error']:.1e}",
        facts["loss"],
        facts["seconds"],
        islands,
    ]
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Runs what is missing and writes the report after each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path("runs/shrink_coverage"))
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/shrink_coverage.json")
    )
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default: %(default)s")
    parser.add_argument("--export", action="store_true", help="export each as an int8 file too")
    parser.add_argument("--force", action="store_true", help="run the networks again")
    arguments = parser.parse_args()
    names = arguments.networks.split(",")
    if unknown := sorted(set(names) - set(NETWORKS)):
        sys.exit(f"--networks: unknown {', '.join(unknown)}. Known: {', '.join(NETWORKS)}")
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    print("| network | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for name in names:
        file = arguments.work_dir / f"{name}.json"
        if arguments.force or not file.exists() or "failed" in json.loads(file.read_text()):
            target = arguments.work_dir / f"{name}.tflite" if arguments.export else None
            try:
                facts = measure(NETWORKS[name], target)
            except Exception:
                # One network that fails is a result; the others still run.
                facts = {"failed": traceback.format_exc()}
            record.write(file, facts)
        print(row(name, json.loads(file.read_text())), flush=True)
    results = {
        name: json.loads(path.read_text())
        for name in NETWORKS
        if (path := arguments.work_dir / f"{name}.json").exists()
    }
    command = "python benchmarks/shrink_coverage.py"
    command += " --export" if arguments.export else ""
    circumstances = record.circumstances(command, PACKAGES)
    record.write(arguments.output, {**circumstances, "results": results})


if __name__ == "__main__":
    main()

"""What each kind of sparsity pays: ResNet8 and ResNet20 on CIFAR-10, pruned in six ways.

    python benchmarks/sparsity.py --data-dir DIR

Every row starts from the same float weights and trains for the same epochs; then the model is
stripped and converted to a float and an int8 file. Stages that a stopped benchmark finished are
kept in the work folder. In the end the latencies of all files are measured side by side.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10
import fine_tuning
import float_training
import models
import numpy as np
import record
import scores

PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy")
KINDS = ("float32", "int8")
LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of this benchmark.

    Attributes:
        build: Builds it.
        cycles: Its float training.
        epochs: Epochs of every row.
        blocks: Residual blocks that the last row goes without.
    """

    build: Callable[..., Any]
    cycles: tuple[float_training.Cycle, ...]
    epochs: int
    blocks: int

    @property
    def padding(self) -> int:
        """Pixels by which images are shifted: as in the last epochs of the float training."""
        return self.cycles[-1].padding


NETWORKS = {
    "resnet8": Network(models.resnet8, float_training.CYCLES, epochs=4, blocks=1),
    "resnet20": Network(
        models.resnet20,
        (float_training.Cycle(3e-3, ((20, 5), (24, 3), (32, 3)), 4),),
        epochs=2,
        blocks=3,
    ),
}


# At high sparsity it is complete early, and weights are exchanged for a while. 2:4 and channels
# take half of the training, and what they prune stays pruned.
ZEROS = {
    "criterion": "lamp",
    "end": fine_tuning.PRUNING_END,
    "regrow_until": fine_tuning.REGROW_UNTIL,
}
HALFWAY = 0.5

# Arguments of the pruning callback of each row; the other rows change the network itself.
PRUNED: dict[str, dict[str, Any]] = {
    "unstructured_80": {"sparsity": 0.8, **ZEROS},
    "unstructured_90": {"sparsity": 0.9, **ZEROS},
    "two_of_four": {"pattern": "2:4", "end": HALFWAY},
}
METHODS = ("dense", *PRUNED, "half_macs", "half_macs_gradual", "fewer_layers")


def compressed(method: str, network: Network, model: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Fine-tunes a model by one row's method and returns what is to be deployed.

    Args:
        method: One of `METHODS`.
        network: The network that `model` is.
        model: The float model, which may be changed.
        arrays: The decoded CIFAR-10.
    """
    import keras

    import tfcompress as tfc

    callbacks: list[Any] = []
    if method in PRUNED:
        callbacks = [tfc.callbacks.MagnitudePruning(**PRUNED[method])]
    elif method == "half_macs":
        model = tfc.shrink(model, macs=0.5)
    elif method == "half_macs_gradual":
        callbacks = [tfc.callbacks.StructuredPruning(macs=0.5, end=HALFWAY)]
    elif method == "fewer_layers":
        samples = fine_tuning.calibration(arrays)
        model = tfc.remove_layers(model, samples, n=network.blocks)
    policy = fine_tuning.Policy(network.epochs, LEARNING_RATE, 2, network.padding)
    fine_tuning.fine_tune(model, keras, arrays, policy, callbacks)
    return tfc.shrink(model) if method == "half_macs_gradual" else tfc.strip(model)


def run_method(
    method: str, network: Network, work: Path, arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Trains, converts and scores one row, and returns its figures."""
    import keras

    import tfcompress as tfc
    from tfcompress.graph.macs import count_macs

    keras.backend.clear_session()
    trained = work / f"{method}.keras"
    if trained.exists():
        model = keras.models.load_model(trained)
    else:
        model = network.build(keras)
        with np.load(work / "float.npz") as stored:
            model.set_weights([stored[name] for name in stored.files])
        if method != "float":
            model = compressed(method, network, model, arrays)
            model.save(trained)
    outputs = model.predict(cifar10.scaled(arrays["x_test"]), batch_size=500, verbose=0)
    facts: dict[str, Any] = {
        "keras_accuracy": scores.accuracy(outputs, arrays["y_test"]),
        "parameters": model.count_params(),
        "macs": sum(count_macs(model).values()),
        "kernel_sparsity": scores.kernel_sparsity(model),
    }
    for kind in KINDS:
        path = work / f"{method}_{kind}.tflite"
        tfc.convert(model, path, scheme=kind, io=kind, calibration=fine_tuning.calibration(arrays))
        found, _ = scores.litert_outputs(path, cifar10.scaled(arrays["x_test"]))
        content = path.read_bytes()
        facts[kind] = {
            "accuracy": scores.accuracy(found, arrays["y_test"]),
            "bytes": len(content),
            "gzip_bytes": scores.gzip_bytes(content),
        }
    return facts


def latencies(work: Path, methods: list[str]) -> dict[str, dict[str, float]]:
    """Median milliseconds of one image in one thread, all files of a network in turns."""
    from ai_edge_litert.interpreter import Interpreter

    from tfcompress.evaluation.latency import interleaved

    calls = {}
    for method in methods:
        for kind in KINDS:
            interpreter = Interpreter(str(work / f"{method}_{kind}.tflite"), num_threads=1)
            interpreter.allocate_tensors()
            calls[f"{method} {kind}"] = interpreter.invoke
    samples = interleaved(calls, rounds=100)
    medians: dict[str, dict[str, float]] = {method: {} for method in methods}
    for name, milliseconds in samples.items():
        method, kind = name.split()
        medians[method][kind] = round(float(np.median(milliseconds)), 4)
    return medians


# Most points of accuracy that a row may lose, and the most time it may take, beside the dense int8
# model of the same epochs.
GOALS = {
    "unstructured_90": {"points lost": 2.5},
    "half_macs": {"points lost": 1.0, "latency ratio": 0.65},
    "half_macs_gradual": {"points lost": 1.0, "latency ratio": 0.65},
}


def goals(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What `GOALS` asks of a network's rows, and what they reach."""
    rows = []
    dense = results.get("dense", {}).get("int8")
    for method, asked in GOALS.items():
        if dense is None or method not in results:
            continue
        pruned = results[method]["int8"]
        reached = {"points lost": round(dense["accuracy"] - pruned["accuracy"], 2)}
        if "milliseconds" in dense:
            ratio = pruned["milliseconds"] / dense["milliseconds"]
            reached["latency ratio"] = round(ratio, 3)
        rows += [
            {"row": method, "figure": figure, "is": reached[figure], "most": most}
            for figure, most in asked.items()
            if figure in reached
        ]
    return [{**row, "met": row["is"] <= row["most"]} for row in rows]


def report(work: Path, output: Path, latency: bool) -> dict[str, Any]:
    """Gathers what is there into one JSON file and returns it."""
    results: dict[str, Any] = {}
    for name in NETWORKS:
        rows = {
            method: json.loads(path.read_text())
            for method in ("float", *METHODS)
            if (path := work / name / f"{method}.row.json").exists()
        }
        if latency and rows:
            for method, kinds in latencies(work / name, list(rows)).items():
                for kind, milliseconds in kinds.items():
                    rows[method][kind]["milliseconds"] = milliseconds
        results[name] = rows
    summary = {
        **record.circumstances(
            "python benchmarks/sparsity.py --data-dir $TFCOMPRESS_DATA_DIR", PACKAGES
        ),
        "training": {
            name: {
                "float": [dataclasses.asdict(cycle) for cycle in network.cycles],
                "epochs": network.epochs,
                "learning_rate": LEARNING_RATE,
                "padding": network.padding,
                "batch_size": fine_tuning.BATCH_SIZE,
            }
            for name, network in NETWORKS.items()
        },
        "results": results,
        "goals": {name: goals(rows) for name, rows in results.items()},
    }
    record.write(output, summary)
    return summary


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows of one network as a Markdown table."""
    heads = ["accuracy %", "bytes", "gzip", "ms"]
    columns = ["parameters", "MACs", *(f"{kind} {head}" for kind in KINDS for head in heads)]
    lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, facts in rows.items():
        cells = [facts["parameters"], facts["macs"]]
        for kind in KINDS:
            keys = ("accuracy", "bytes", "gzip_bytes", "milliseconds")
            cells += [facts[kind].get(key, "") for key in keys]
        lines.append(f"| {method} | " + " | ".join(map(_text, cells)) + " |")
    return "\n".join(lines)


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else f"{cell:,}"


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cifar10.add_data_dir(parser)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/sparsity"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/sparsity.json"))
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default: %(default)s")
    parser.add_argument(
        "--methods", default=",".join(("float", *METHODS)), help="default: %(default)s"
    )
    parser.add_argument("--no-latency", action="store_true", help="leave the files untimed")
    return parser.parse_args()


def main() -> None:
    """Runs what is missing, and writes the report in the end."""
    arguments = parsed_arguments()
    methods = arguments.methods.split(",")
    if unknown := sorted(set(methods) - {"float", *METHODS}):
        sys.exit(f"--methods: unknown {', '.join(unknown)}. Known: float, {', '.join(METHODS)}")
    for name in arguments.networks.split(","):
        if name not in NETWORKS:
            sys.exit(f"--networks: unknown {name!r}. Known: {', '.join(NETWORKS)}")
        network, work = NETWORKS[name], arguments.work_dir / name
        work.mkdir(parents=True, exist_ok=True)
        arrays = cifar10.load(arguments.data_dir, arguments.work_dir / "cifar10.npz")
        if not (work / "float.npz").exists():
            float_training.run(work, arrays, network.build, network.cycles)
        for method in methods:
            path = work / f"{method}.row.json"
            if not path.exists():
                print(f"== {name}: {method}", flush=True)
                record.write(path, run_method(method, network, work, arrays))
    summary = report(arguments.work_dir, arguments.output, not arguments.no_latency)
    for name, rows in summary["results"].items():
        print(f"\n{name}\n{table(rows)}")
        for goal in summary["goals"][name]:
            state = "met" if goal["met"] else "MISSED"
            print(f"{goal['row']}: {goal['figure']} {goal['is']}, goal {goal['most']}: {state}")


if __name__ == "__main__":
    main()

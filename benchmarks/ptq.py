"""Post-training quantization: tfcompress beside TensorFlow's converter and ai-edge-quantizer.

    python benchmarks/ptq.py --data-dir DIR

Every file is made from the same trained network and the same calibration images, and judged by the
same interpreter. Results are kept in the work folder: a benchmark that was stopped continues where
it was, and `--force` makes the files again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cifar10
import ptq_methods
import ptq_networks
import record
import scores

CALIBRATION = 256
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "numpy")
# Points: int8 behind a peer at most; w4a8 behind float at most; plain w4a8 behind float at least.
ALLOWED_BEHIND, ALLOWED_LOSS, PLAIN_LOSS = 0.1, 1.5, 5.0


def run_method(name: str, model: Any, path: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """Makes one file and judges it; what cannot be made is an entry with the reason."""
    start = time.process_time()
    try:
        ptq_methods.METHODS[name](model, path, arrays["x_train"][:CALIBRATION])
    except (RuntimeError, ValueError) as error:
        return {"failed": str(error).splitlines()[0]}
    seconds = time.process_time() - start
    try:
        outputs, _ = scores.litert_outputs(path, arrays["x_test"])
    except (RuntimeError, ValueError) as error:
        return {"failed": str(error).splitlines()[0]}
    data = path.read_bytes()
    return {
        "accuracy": scores.accuracy(outputs, arrays["y_test"]),
        "bytes": len(data),
        "gzip_bytes": scores.gzip_bytes(data),
        "cpu_seconds": round(seconds, 1),
    }


def goals(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at, by network, and whether it is met."""
    rows = []
    for network, found in results.items():
        scored = {name: row["accuracy"] for name, row in found.items() if "accuracy" in row}
        ours = scored.get("int8")
        for peer in ("converter_int8", "aeq_int8"):
            if ours is None or peer not in scored:
                continue
            lead = round(ours - scored[peer], 2)
            ahead = network == "mobilenet_v2_unequal"
            met = lead > 0 if ahead else lead >= -ALLOWED_BEHIND
            rows.append({"network": network, "goal": f"int8 against {peer}", "lead": lead})
            rows[-1]["met"] = met
        if network == "resnet8" and {"float32", "w4a8_best", "w4a8_min_max"} <= set(scored):
            for name in ("w4a8_best", "w4a8_min_max"):
                loss = round(scored["float32"] - scored[name], 2)
                met = loss <= ALLOWED_LOSS if name == "w4a8_best" else loss >= PLAIN_LOSS
                rows.append({"network": network, "goal": f"loss of {name}", "lead": -loss})
                rows[-1]["met"] = met
    return rows


def table(results: dict[str, dict[str, Any]]) -> str:
    """Accuracies in percent as a Markdown table, one row a method."""
    names = list(results)
    lines = ["| method | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method in ptq_methods.METHODS:
        cells = []
        for found in results.values():
            row = found.get(method, {})
            cells.append(str(row.get("accuracy", "fails" if "failed" in row else "")))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(work: Path, output: Path) -> dict[str, Any]:
    """Gathers the results that are there into one JSON file."""
    results = {
        name: json.loads((work / f"ptq_{name}.json").read_text())
        for name in ptq_networks.NETWORKS
        if (work / f"ptq_{name}.json").exists()
    }
    summary = {
        **record.circumstances(
            "python benchmarks/ptq.py --data-dir $TFCOMPRESS_DATA_DIR", PACKAGES
        ),
        "calibration_samples": CALIBRATION,
        "results": results,
        "goals": goals(results),
    }
    record.write(output, summary)
    return summary


def run_network(
    name: str, work: Path, data_dir: str | None, methods: list[str], force: bool
) -> None:
    """Trains a network where that was not done, and runs the methods that are missing."""
    store = work / f"ptq_{name}.json"
    found = json.loads(store.read_text()) if store.exists() else {}
    wanted = [
        method
        for method in methods
        if method in ptq_methods.CHOSEN[name] and (force or method not in found)
    ]
    if not wanted:
        return
    arrays = ptq_networks.load_data(name, data_dir, work)
    model = ptq_networks.trained(name, arrays, work, data_dir)
    for method in wanted:
        print(f"== {name}: {method}", flush=True)
        found[method] = run_method(method, model, work / f"{name}_{method}.tflite", arrays)
        print(found[method], flush=True)
        record.write(store, found)


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cifar10.add_data_dir(parser, "cifar10 and mnist")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/ptq"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ptq.json"))
    parser.add_argument("--networks", default=",".join(ptq_networks.NETWORKS))
    parser.add_argument("--methods", default=",".join(ptq_methods.METHODS))
    parser.add_argument("--force", action="store_true", help="make the files again")
    return parser.parse_args()


def main() -> None:
    """Runs what is asked for and writes the report after each network."""
    arguments = parsed_arguments()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for name in arguments.networks.split(","):
        methods = arguments.methods.split(",")
        run_network(name, arguments.work_dir, arguments.data_dir, methods, arguments.force)
        report(arguments.work_dir, arguments.output)
    summary = report(arguments.work_dir, arguments.output)
    print(table(summary["results"]))
    for row in summary["goals"]:
        state = "met" if row["met"] else "MISSED"
        print(f"{row['network']}: {row['goal']}: {row['lead']:+} points: {state}")


if __name__ == "__main__":
    main()

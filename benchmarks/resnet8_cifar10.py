"""ResNet8 on CIFAR-10: the same float weights compressed by tfcompress and by tfmot.

    python benchmarks/resnet8_cifar10.py --data-dir DIR

Every stage runs in a process of its own, one after the other, and keeps its result in the work
folder: a benchmark that was stopped continues where it was, and `--force` runs stages again.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cifar10
import fine_tuning
import record

STAGES = (
    "float",
    "float32",
    "tfmot_ptq",
    "ptq",
    "tfmot_qat",
    "qat",
    "tfmot_prune",
    "prune",
    "tfmot_pqat",
    "pqat",
    "ptq_w4a8",
    "qat_w4a8",
)
NEEDS = {"tfmot_pqat": ("float", "tfmot_prune"), "pqat": ("float", "prune"), "float": ()}
# Points that tfcompress may be behind tfmot, and that it must be ahead of it in the pruned rows.
ALLOWED_BEHIND = 0.2
PRUNED_AHEAD = 4.0
PACKAGES = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
)


def run_stage(stage: str, work: Path, data_dir: str | None) -> None:
    """Runs one stage in this process and writes its result to the work folder."""
    arrays = cifar10.load(data_dir, work / "cifar10.npz")
    if stage == "float":
        import float_training

        result = float_training.run(work, arrays)
    elif stage.startswith("tfmot_"):
        import resnet8_tfmot

        result = resnet8_tfmot.run(stage.removeprefix("tfmot_"), work, arrays)
    else:
        import resnet8_tfcompress

        result = resnet8_tfcompress.run(stage, work, arrays)
    record.write(work / f"{stage}.json", result)


def start_stage(stage: str, work: Path, data_dir: str | None) -> None:
    """Runs one stage in a child process, with the Keras that it needs.

    Raises:
        subprocess.CalledProcessError: The stage failed; its output says why.
    """
    # oneDNN kernels, off by default without AVX-512: a training step takes 0.74 of the time.
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2", TF_ENABLE_ONEDNN_OPTS="1")
    environment.pop("TF_USE_LEGACY_KERAS", None)
    if stage.startswith("tfmot_"):
        environment["TF_USE_LEGACY_KERAS"] = "1"
    command = [sys.executable, __file__, "--child", stage, "--work-dir", str(work)]
    if data_dir is not None:
        command += ["--data-dir", data_dir]
    subprocess.run(command, env=environment, check=True)


def goals(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares each pair of int8 files that is there and says whether the goal is met.

    Returns:
        One row a pair: the stage, the accuracies of the two files in percent, the lead of
        tfcompress in points, the gzip sizes in bytes, and `met`.
    """
    rows = []
    for stage in ("ptq", "qat", "prune", "pqat"):
        if stage not in results or f"tfmot_{stage}" not in results:
            continue
        ours, theirs = results[stage], results[f"tfmot_{stage}"]
        lead = round(ours["tflite_accuracy"] - theirs["tflite_accuracy"], 2)
        met = lead >= -ALLOWED_BEHIND
        if stage in ("prune", "pqat"):
            met = lead >= PRUNED_AHEAD and ours["gzip_bytes"] <= theirs["gzip_bytes"]
        rows.append(
            {
                "stage": stage,
                "tfmot_accuracy": theirs["tflite_accuracy"],
                "tfcompress_accuracy": ours["tflite_accuracy"],
                "lead": lead,
                "tfmot_gzip_bytes": theirs["gzip_bytes"],
                "tfcompress_gzip_bytes": ours["gzip_bytes"],
                "met": met,
            }
        )
    return rows


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    columns = (
        ("keras_accuracy", "Keras %"),
        ("tflite_accuracy", "TFLite %"),
        ("bytes", "bytes"),
        ("gzip_bytes", "gzip bytes"),
        ("file_sparsity", "sparsity"),
        ("agreement", "agreement %"),
        ("max_quanta", "max quanta"),
        ("mean_quanta", "mean quanta"),
    )
    lines = [
        "| stage | " + " | ".join(title for _, title in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for stage, result in results.items():
        cells = [f"{result[key]:,}" if key in result else "" for key, _ in columns]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(work: Path, output: Path, command: str) -> dict[str, Any]:
    """Gathers the results of all finished stages into one JSON file.

    Args:
        work: The work folder.
        output: The file to write.
        command: The command line to record.

    Returns:
        What was written.
    """
    results = {
        stage: json.loads((work / f"{stage}.json").read_text())
        for stage in STAGES
        if (work / f"{stage}.json").exists()
    }
    summary = {
        **record.circumstances(command, PACKAGES),
        "fine_tuning": {
            "optimizer": "Adam, cosine decay to zero",
            "batch_size": fine_tuning.BATCH_SIZE,
            "sparsity": fine_tuning.SPARSITY,
            "pruning_begin": fine_tuning.PRUNING_BEGIN,
            "pruning_end": fine_tuning.PRUNING_END,
            "pruning_frequency": fine_tuning.PRUNING_FREQUENCY,
            "regrow_until": fine_tuning.REGROW_UNTIL,
            "calibration_samples": fine_tuning.CALIBRATION_SAMPLES,
            **{name: dataclasses.asdict(p) for name, p in fine_tuning.POLICIES.items()},
        },
        "results": results,
        "goals": goals(results),
    }
    record.write(output, summary)
    return summary


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cifar10.add_data_dir(parser)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/resnet8_cifar10"))
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/resnet8_cifar10.json")
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="run the stages again")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the stages that are asked for and writes the report after each."""
    arguments = parsed_arguments()
    work = arguments.work_dir
    if arguments.child:
        run_stage(arguments.child, work, arguments.data_dir)
        return
    stages = arguments.stages.split(",")
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        sys.exit(f"--stages: unknown {', '.join(unknown)}. Known stages: {', '.join(STAGES)}")
    work.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/resnet8_cifar10.py --data-dir $TFCOMPRESS_DATA_DIR"
    for stage in STAGES:
        if stage not in stages or ((work / f"{stage}.json").exists() and not arguments.force):
            continue
        missing = [s for s in NEEDS.get(stage, ("float",)) if not (work / f"{s}.json").exists()]
        if missing:
            sys.exit(f"Stage {stage} needs the results of: {', '.join(missing)}. Run them first.")
        if arguments.force:
            (work / f"tfcompress_{stage}.keras").unlink(missing_ok=True)
        print(f"== {stage}", flush=True)
        start_stage(stage, work, arguments.data_dir)
        report(work, arguments.output, command)
    summary = report(work, arguments.output, command)
    print(table(summary["results"]))
    for row in summary["goals"]:
        print(
            f"{row['stage']}: tfcompress {row['tfcompress_accuracy']} %, tfmot "
            f"{row['tfmot_accuracy']} %, {row['lead']:+} points: "
            f"{'met' if row['met'] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()

"""Latency of the benchmarks' files beside the float file of the same network.

    python benchmarks/latency.py

Times the `.tflite` files that `resnet8_cifar10.py` and `ptq.py` left in their work folders. All
files of a network take turns invocation by invocation in one process and one thread, and processor
time is counted: what else the machine does falls on none of them.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ptq_networks
import record

PACKAGES = ("ai-edge-litert", "numpy")
RESULT = Path(__file__).parent / "results" / "latency.json"
WARM_UP, ROUNDS = 20, 200


def invocation(path: Path) -> Callable[[], None]:
    """A call that runs a file once on random inputs, in one thread with the default kernels."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for source in interpreter.get_input_details():
        if np.issubdtype(source["dtype"], np.integer):
            limits = np.iinfo(source["dtype"])
            values = generator.integers(limits.min, limits.max, source["shape"], endpoint=True)
        else:
            values = generator.random(source["shape"])
        interpreter.set_tensor(source["index"], values.astype(source["dtype"]))
    return interpreter.invoke


def measure(files: dict[str, Path], baseline: str) -> dict[str, dict[str, float]]:
    """Time files in turns.

    Args:
        files: Files of one network by name.
        baseline: Name of the float file.

    Returns:
        By name the median `milliseconds` of an invocation, and its `ratio` to the baseline.
    """
    calls = {}
    failed = {}
    for name, path in files.items():
        try:
            calls[name] = invocation(path)
        except (RuntimeError, ValueError) as error:
            failed[name] = {"failed": str(error).splitlines()[0]}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()  # pays for the caches that the other files have emptied
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        name: {
            "milliseconds": round(1000 * median, 4),
            "ratio": round(median / medians[baseline], 3),
        }
        for name, median in medians.items()
    } | failed


def networks(fine_tuned: Path, post_training: Path) -> dict[str, tuple[dict[str, Path], str]]:
    """The files of each network, and which is the float one."""
    found: dict[str, tuple[dict[str, Path], str]] = {}
    files = {path.stem: path for path in sorted(fine_tuned.glob("*.tflite"))}
    if "tfcompress_float32" in files:
        found["resnet8, fine-tuned"] = (files, "tfcompress_float32")
    for name in ptq_networks.NETWORKS:
        paths = sorted(post_training.glob(f"{name}_*.tflite"))
        files = {path.stem.removeprefix(f"{name}_"): path for path in paths}
        if "float32" in files:
            found[name] = (files, "float32")
    return found


def main() -> None:
    """Time what is there and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fine-tuned", type=Path, default=Path("runs/resnet8_cifar10"))
    parser.add_argument("--post-training", type=Path, default=Path("runs/ptq"))
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for network, (files, baseline) in networks(
        arguments.fine_tuned, arguments.post_training
    ).items():
        results[network] = measure(files, baseline)
        for name, row in results[network].items():
            print(f"{network}: {name}: {row}", flush=True)
    if not results:
        parser.exit(1, "No files. Run resnet8_cifar10.py or ptq.py first.\n")
    from tfcompress.evaluation.environment import environment

    content = {
        **record.circumstances("python benchmarks/latency.py", PACKAGES),
        "processor": environment()["processor"],
        "results": results,
    }
    record.write(arguments.output, content)


if __name__ == "__main__":
    main()

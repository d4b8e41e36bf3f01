"""What updating the masks of a 25-million-parameter network costs, beside its training.

    python benchmarks/mask_update.py
    KERAS_BACKEND=jax python benchmarks/mask_update.py --batch-size 64

ResNet50 with random weights is pruned to 80 % (2:4 to 50 %) in a few updates, without training in
between, and one training step is timed. The share is that of an update every 100 steps, which is
the default in trainings of any length. Wall and processor times are given: on a machine that does
other work the latter tell more. What an update copies to the host is counted, too.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import record

GOAL = 0.05
UPDATES = 5
FREQUENCY = 100
VARIANTS: dict[str, dict[str, Any]] = {
    "global magnitude": {"sparsity": 0.8},
    "lamp": {"sparsity": 0.8, "criterion": "lamp"},
    "2:4": {"pattern": "2:4"},
}


def timed(action: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of an action."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return {
        "wall_seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }


def medians(entries: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: round(statistics.median(e[key] for e in entries), 3) for key in entries[0]}


class HostCopies:
    """Counts the values that reach the host through `keras.ops.convert_to_numpy`."""

    def __init__(self, keras: Any) -> None:
        self.values = 0
        self._ops = keras.ops
        self._original = keras.ops.convert_to_numpy

    def __enter__(self) -> "HostCopies":
        def counting(x: Any) -> np.ndarray:
            self.values += math.prod(x.shape)
            return self._original(x)

        self._ops.convert_to_numpy = counting
        return self

    def __exit__(self, *_: object) -> None:
        self._ops.convert_to_numpy = self._original


def measured(model: Any, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Times the updates of one way to prune, as `fit` would make them."""
    import keras

    import tfcompress as tfc

    tfc.pruning.detach_state(model)
    callback = tfc.callbacks.MagnitudePruning(begin=0, end=UPDATES, frequency=1, **settings)
    callback.set_params({"epochs": 1, "steps": UPDATES + 2})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    entries = []
    with HostCopies(keras) as copies:
        for batch in range(UPDATES + 1):
            entries.append(timed(lambda batch=batch: callback.on_train_batch_begin(batch)))
            callback.on_train_batch_end(batch)
    size = sum(target.size for target in callback.targets)
    callback.on_train_end()
    # The first update is at a sparsity of 0, the second warms up.
    result = medians(entries[2:])
    return {
        "variant": name,
        "weights": size,
        "sparsity": round(callback.reached.sparsity, 6),
        "update": result,
        "host_share": round(copies.values / (UPDATES * size), 4),
    }


def main() -> None:
    """Measures all variants and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mask_update.json"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="default: %(default)s")
    arguments = parser.parse_args()

    import keras

    keras.utils.set_random_seed(0)
    model = models.resnet50(keras)
    weights = model.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy")
    results = []
    for name, settings in VARIANTS.items():
        model.set_weights(weights)
        results.append(measured(model, name, settings))
        print(results[-1], flush=True)
    rng = np.random.default_rng(0)
    x = rng.random((arguments.batch_size, 224, 224, 3), dtype="float32")
    y = rng.integers(0, 1000, arguments.batch_size)
    steps = [timed(lambda: model.train_on_batch(x, y)) for _ in range(arguments.steps + 1)]
    step = medians(steps[1:])
    for result in results:
        seconds = result["update"]["processor_seconds"]
        share = seconds / (seconds + FREQUENCY * step["processor_seconds"])
        result["share_of_training"] = round(share, 5)
        result["met"] = share <= GOAL
        print(f"{result['variant']}: {share:.3%} of the training time (goal {GOAL:.0%})")
    backend = keras.config.backend()
    summary = {
        **record.circumstances(" ".join(["python", *sys.argv]), ("keras", backend, "numpy")),
        "backend": backend,
        "batch_size": arguments.batch_size,
        "step": step,
        "frequency": FREQUENCY,
        "goal": GOAL,
        "results": results,
    }
    record.write(arguments.output, summary)


if __name__ == "__main__":
    main()

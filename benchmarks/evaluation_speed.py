"""Time of evaluating a .tflite file beside LiteRT's bare invoke loop at the same batch size.

    python benchmarks/evaluation_speed.py
    python benchmarks/evaluation_speed.py --file model.tflite

Both run in one thread, so processor time is counted, which other jobs of the machine do not change.
Without `--file` a ResNet8 with random weights is quantized: its operators are what takes time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import record

BATCH = 64
SAMPLES = 10_000
ROUNDS = 3
GOAL = 1.3
RESULT = Path(__file__).parent / "results" / "evaluation_speed.json"


def bare_loop(path: str, codes: np.ndarray) -> float:
    """Seconds for all samples with nothing but set, invoke and get."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    source = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(source, (BATCH, *codes.shape[1:]))
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]
    start = time.process_time()
    for row in range(0, len(codes) - BATCH + 1, BATCH):
        interpreter.set_tensor(source, codes[row : row + BATCH])
        interpreter.invoke()
        interpreter.get_tensor(target)
    return (time.process_time() - start) * len(codes) / (len(codes) // BATCH * BATCH)


def evaluated(path: str, images: np.ndarray) -> float:
    """Seconds from float images to float probabilities, opening the file included."""
    from tfcompress.evaluation import LiteRTModel

    start = time.process_time()
    LiteRTModel(path).predict(images)
    return time.process_time() - start


def random_resnet8(folder: str) -> str:
    """Write an int8 ResNet8 with random weights; returns its path."""
    import tfcompress as tfc
    from tfcompress.recipe import architectures

    model = architectures.build("resnet8", (32, 32, 3), 10)
    samples = np.random.default_rng(0).random((64, 32, 32, 3), np.float32)
    path = Path(folder) / "resnet8.tflite"
    return str(tfc.convert(model, path, calibration=samples, tolerance=np.inf).path)


def measure(path: str) -> dict[str, float]:
    """Time both in turns; the medians count."""
    from tfcompress.evaluation import LiteRTModel

    (spec,) = LiteRTModel(path).inputs
    images = np.random.default_rng(1).random((SAMPLES, *spec.shape[1:]), np.float32)
    codes = spec.quantize(images)
    pairs = [(bare_loop(path, codes), evaluated(path, images)) for _ in range(ROUNDS)]
    bare, ours = np.median(pairs, axis=0)
    return {
        "bare_seconds": round(float(bare), 3),
        "evaluated_seconds": round(float(ours), 3),
        "ratio": round(float(np.median([b / a for a, b in pairs])), 3),
        "goal": GOAL,
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", help="an int8 .tflite file with one input of images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.file or random_resnet8(folder))
    document = {
        **record.circumstances(
            "python benchmarks/evaluation_speed.py", ("ai-edge-litert", "numpy")
        ),
        "samples": SAMPLES,
        "batch_size": BATCH,
        **found,
        "met": found["ratio"] <= GOAL,
    }
    record.write(RESULT, document)
    print(f"bare loop {found['bare_seconds']} s, evaluated {found['evaluated_seconds']} s")
    print(f"ratio {found['ratio']} (goal: at most {GOAL})")


if __name__ == "__main__":
    main()

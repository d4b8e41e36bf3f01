"""Lines that a user writes for a job, with each library: the shortest script that does all of it.

    python benchmarks/user_code.py

The scripts are the files of `user_jobs/`, named by job and library. Every one is run here on a
small trained model, and its file judged, so that a count stands for code that works. A job begins
with a trained and compiled model and ends with a file that was compared with its model: tfcompress
does that in `export` and `convert`, the others leave it to the user.
"""

import argparse
import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import record

JOBS = Path(__file__).parent / "user_jobs"
RESULT = Path(__file__).parent / "results" / "user_code.json"
PACKAGES = (
    "tfcompress",
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "scikit-learn",
)
# tfcompress first: its file is what the reports are about.
LIBRARIES = ("tfcompress", "converter", "aeq", "tfmot", "peers")
# Why a library has no script for a job.
MISSING = {
    ("post_training", "tfmot"): "leaves it to TensorFlow's converter",
    ("quantization_aware", "converter"): "does not train",
    ("quantization_aware", "aeq"): "does not train",
    ("prune", "converter"): "does not prune",
    ("prune", "aeq"): "does not prune",
    ("prune_quantize", "converter"): "does not train",
    ("prune_quantize", "aeq"): "does not train",
}
# What every training script has, so that no library is charged for it.
FREE_IMPORTS = ("import numpy as np",)
LEAST_ACCURACY, LEAST_SPARSITY = 80.0, 0.79


def scripts() -> dict[tuple[str, str], Path]:
    """The scripts by job and library; `peers` stands for all libraries but tfcompress."""
    found = {}
    for path in sorted(JOBS.glob("*.py")):
        job, _, library = path.stem.rpartition("_")
        found[job, library] = path
    return found


def count(path: Path) -> dict[str, int]:
    """Count the lines of a script that a user adds to a training script.

    Blank lines, comments, the docstring, the `def` line and the import of NumPy are not counted.
    Lines are as long as the formatter allows, 100 characters, in every script.

    Returns:
        `lines` in all, and how many of them are `verification`.
    """
    text = path.read_text(encoding="utf-8").split('"""', 2)[2]
    counts = {"lines": 0, "verification": 0}
    verifying = False
    for line in map(str.strip, text.splitlines()):
        verifying = verifying or line == "# Verified:"
        if line and not line.startswith(("#", "def ")) and line not in FREE_IMPORTS:
            counts["lines"] += 1
            counts["verification"] += verifying
    return counts


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scikit-learn's digits: images and labels to train on, and to test on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    return images[:1440], labels[:1440], images[1440:], labels[1440:]


def trained(keras: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Train a small model of either Keras."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.InputLayer((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=10, verbose=0)
    return model


def run_jobs(paths: list[Path], folder: Path, library: str) -> None:
    """Run a library's scripts in this process, each on a copy of one trained model."""
    # The environment does not say which Keras: importing tfmot changes it for all that comes after.
    keras = importlib.import_module("tf_keras" if library == "tfmot" else "keras")
    x, y, x_test, y_test = digits()
    model = trained(keras, x, y)
    os.chdir(folder)
    for path in paths:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        script = runpy.run_path(str(path))
        if "compress" in script:
            script["compress"](copy, x, y, folder / f"{path.stem}.tflite")
        else:
            file = folder / "post_training_tfcompress.tflite"
            script["report"](copy, file, x_test, y_test, folder / f"{path.stem}.json")


def start(library: str, folder: Path) -> None:
    """Run the scripts of a library in a child process, with the Keras that they need.

    Raises:
        subprocess.CalledProcessError: If a script failed; its output says why.
    """
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2")
    environment.pop("TF_USE_LEGACY_KERAS", None)
    if library == "tfmot":
        environment["TF_USE_LEGACY_KERAS"] = "1"
    command = [sys.executable, __file__, "--child", library, "--work-dir", str(folder)]
    subprocess.run(command, env=environment, check=True)


def judged(job: str, name: str, folder: Path) -> dict[str, float]:
    """Check that a script did its job; its file is judged like any other.

    Raises:
        ValueError: If the file computes in float, has too few zeros, or guesses.
    """
    if job == "report":
        document = json.loads((folder / f"{name}.json").read_text())
        if not document:
            raise ValueError(f"{name} wrote an empty report.")
        return {}
    import scores

    from tfcompress.export.inspection import inspect_file

    *_, x_test, y_test = digits()
    path = folder / f"{name}.tflite"
    outputs, _ = scores.litert_outputs(path, x_test)
    found = {
        "accuracy": scores.accuracy(outputs, y_test),
        "sparsity": scores.file_sparsity(path),
        "bytes": path.stat().st_size,
    }
    # Reading a shape is no arithmetic; the peers' files do it where the batch is not fixed.
    islands = [op for op in inspect_file(path).float_islands if not op.startswith("SHAPE")]
    if islands:
        raise ValueError(f"{name} leaves operators in float: {islands}")
    if found["accuracy"] < LEAST_ACCURACY:
        raise ValueError(f"{name} made a file with an accuracy of {found['accuracy']} %.")
    if job.startswith("prune") and found["sparsity"] < LEAST_SPARSITY:
        raise ValueError(f"{name} made a file with a sparsity of {found['sparsity']}.")
    return found


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path("runs/user_code"))
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="default: %(default)s")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the scripts of each library, count their lines and write the result."""
    arguments = parsed_arguments()
    folder = arguments.work_dir.resolve()
    found = scripts()
    if arguments.child:
        paths = [path for (_, own), path in found.items() if own == arguments.child]
        run_jobs(paths, folder, arguments.child)
        return
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {job: {} for job, _ in found}
    if arguments.output.exists():
        results |= json.loads(arguments.output.read_text())["results"]
    for (job, library), reason in MISSING.items():
        results[job][library] = {"reason": reason}
    circumstances = record.circumstances("python benchmarks/user_code.py", PACKAGES)
    for library in arguments.libraries.split(","):
        start(library, folder)
        for (job, own), path in found.items():
            if own == library:
                results[job][library] = {**count(path), **judged(job, path.stem, folder)}
                print(job, library, results[job][library], flush=True)
        record.write(arguments.output, {**circumstances, "results": results})


if __name__ == "__main__":
    main()

"""What importing costs: heavy libraries are loaded where they are used, not before."""

import subprocess
import sys

HEAVY = (
    "tensorflow",
    "keras",
    "tensorflow_model_optimization",
    "tf_keras",
    "tensorflow_datasets",
    "ai_edge_litert",
    "matplotlib",
    "pandas",
    "sklearn",
    "rich",
    "jinja2",
    "ray",
    "jax",
    "torch",
)

# What the TensorFlow backend of Keras imports by itself is not ours to avoid.
SCRIPT = f"""
import sys
heavy = {HEAVY!r}

def loaded():
    return {{name for name in heavy if name in sys.modules}}

import tfcompress
from tfcompress.cli import main
for name in main.COMMANDS:
    main._command(name).help()
from tfcompress.export.inspection import inspect_file
print("light:", sorted(loaded()))

import keras
keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
allowed = loaded()
for name in tfcompress.__all__:
    getattr(tfcompress, name)
print("all:", sorted(loaded() - allowed))
"""


def test_importing_is_lean():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    light, everything = result.stdout.strip().splitlines()[-2:]
    assert light == "light: []", "import tfcompress, its help and inspect_file load heavy libraries"
    assert everything == "all: []", "a public name loads a heavy library when it is only looked up"


def test_quantization_aware_files_load_after_plain_imports():
    script = (
        "import keras, tfcompress; "
        "assert keras.saving.get_registered_object('tfcompress>QuantizedLayer') is not None"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)

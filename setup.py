"""Package metadata of tfcompress. Tool settings live in `pyproject.toml`."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "hypothesis>=6.170",
    "jax>=0.10.2",
    "pytest>=9.2",
    "pytest-xdist>=3.8",
]

setup(
    name="tfcompress",
    version="0.1.0",
    description=(
        "Pruning and quantization-aware training for Keras 3, verified int8 TFLite export, "
        "and a report against the float baseline"
    ),
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="keras tensorflow tflite litert pruning quantization qat compression tinyml",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["tfcompress", "tfcompress.*"]),
    package_data={"": ["py.typed", "*.html", "*.css"]},
    python_requires=">=3.11,<3.14",
    # Lower bounds are the versions that the tests ran with. tensorflow and keras carry an upper
    # bound as well: the converter and Keras' graph internals change between minor versions.
    install_requires=[
        "absl-py>=1.4",
        "ai-edge-litert>=2.3",
        "Jinja2>=3.1.6",
        "keras>=3.15.1,<3.16",
        "matplotlib>=3.11",
        "numpy>=2.4",
        "pandas>=3.1",
        "pillow>=13.0",
        "pydantic>=2.14,<3",
        "PyYAML>=6.0.3",
        "rich>=15.0",
        "scikit-learn>=1.9",
        "scipy>=1.17",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-model-optimization>=0.8.1",
        "tf-keras>=2.21,<2.22",
    ],
    extras_require={
        "aeq": ["ai-edge-quantizer>=0.10"],
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "docs": ["mkdocs-material>=9.8", "mkdocstrings[python]>=1.0.8"],
        "notebooks": ["ipykernel>=7.4", "nbclient>=0.11", "nbformat>=5.11"],
        "test": TEST,
        # Only pre-releases exist: install it with `pip install --pre`.
        "tflm": ["tflite-micro>=0.dev20261023182759"],
        "dev": [*TEST, "mypy>=2.4", "ruff>=0.17.6", "types-PyYAML>=6.0.12"],
    },
    entry_points={"console_scripts": ["tfcompress = tfcompress.cli.main:entry_point"]},
)

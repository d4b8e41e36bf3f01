"""Versions and machine, so that figures can be placed."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "tfcompress",
    "keras",
    "tensorflow",
    "ai-edge-litert",
    "numpy",
    "scikit-learn",
    "jax",
    "torch",
)


def environment() -> dict[str, Any]:
    """Return time, command, machine and the versions of the libraries installed here.

    Returns:
        A JSON-ready dict with `date`, `command`, `python`, `platform`, `processor`, `cpus` and
        `packages`.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

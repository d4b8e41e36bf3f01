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


# Instructions that multiply and add int8 values at once, as Linux names them: with one of them int8
# layers run faster than float ones, without they need not.
INTEGER_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")


def environment() -> dict[str, Any]:
    """Return time, command, machine and the versions of the libraries installed here.

    Returns:
        A JSON-ready dict with `date`, `command`, `python`, `platform`, `processor`,
        `integer_instructions` (those of the processor that int8 layers profit from, `"none"` or
        `"unknown"`), `cpus` and `packages`.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "integer_instructions": _integer_instructions(),
        "cpus": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _integer_instructions() -> str:
    flags = _cpu_field("flags") or _cpu_field("Features")
    if flags is None:
        return "unknown"
    found = set(flags.split())
    return ", ".join(name for name in INTEGER_INSTRUCTIONS if name in found) or "none"


def _cpu_field(name: str) -> str | None:
    """A field of the first processor, where Linux lists it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None

"""What every benchmark writes beside its figures, and how it is written."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def circumstances(command: str, packages: Iterable[str]) -> dict[str, Any]:
    """What a result was measured with.

    Args:
        command: The command that measures it again.
        packages: Distributions whose versions matter; None is recorded for one that is missing.

    Returns:
        `command`, `date`, `python`, `processors` and `versions`, for the top of a result.
    """
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "versions": versions,
    }


def write(path: Path, content: Any) -> None:
    """Writes JSON aside and renames it, so that a benchmark that is stopped leaves whole files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)

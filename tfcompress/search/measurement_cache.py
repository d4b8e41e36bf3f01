"""Measurements in a JSON file, so that an interrupted search goes on where it was."""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.evaluation.trial_samples import TrialSamples
from tfcompress.files import atomic_write_text, prepare_destination

VERSION = 1


class MeasurementCache:
    """What was measured on one model and one set of samples, by the name of the measurement.

    A file may hold the measurements of several models: they are told apart by a hash of the
    weights, the samples and the metric. Writes are atomic.

    Args:
        path: The file; `None` keeps the measurements in memory only.
        key: See `fingerprint`.

    Raises:
        ValueError: If there is a file that is no such cache.
        PermissionError: If its folder cannot be written to.
    """

    def __init__(self, path: str | PathLike[str] | None, key: str) -> None:
        self._path = None if path is None else prepare_destination(path)
        self._entries: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.is_file():
            self._entries = _read(self._path)
        self._mine = self._entries.setdefault(key, {})
        self._unsaved = False

    def get(self, name: str) -> list[float] | None:
        """Return the numbers of a measurement, or `None` if it was not made."""
        return self._mine.get(name)

    def put(self, name: str, numbers: list[float]) -> None:
        """Keep the numbers of a measurement until `save`."""
        self._mine[name] = numbers
        self._unsaved = True

    def save(self) -> None:
        """Write what is new."""
        if self._path is not None and self._unsaved:
            document = {"version": VERSION, "measurements": self._entries}
            atomic_write_text(self._path, json.dumps(document, indent=1) + "\n")
            self._unsaved = False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']!r}, not {VERSION}")
        entries: dict[str, dict[str, Any]] = document["measurements"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`cache` must be a file that an earlier search wrote, or a new one ({error}). "
            f"Received: {path}"
        ) from error
    return entries


def fingerprint(model: keras.Model, samples: TrialSamples, *settings: str) -> str:
    """Return a hash of everything that a measurement depends on.

    Args:
        model: The model, whose weights count.
        samples: The samples that it is measured on.
        *settings: Whatever else tells measurements apart, such as the metric.
    """
    digest = hashlib.sha256()
    arrays = [(v.path, keras.ops.convert_to_numpy(v.value)) for v in model.weights]
    arrays += list(samples.inputs.items())
    if samples.labels is not None:
        arrays.append(("labels", samples.labels))
    for name, values in arrays:
        digest.update(f"{name} {values.shape} {values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()[:32]

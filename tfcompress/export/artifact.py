"""An exported file and everything that is known about it."""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress.export.conversion import SCHEMES
from tfcompress.export.inspection import Inspection, inspect_file
from tfcompress.export.tensor_spec import TensorSpec
from tfcompress.export.verification import Fidelity
from tfcompress.files import atomic_write_text

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

    from tfcompress.evaluation.results import LayerResult

_FORMAT = 1
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "numpy", "tfcompress")


@dataclass(frozen=True, repr=False)
class Artifact:
    """A verified TFLite file.

    The same facts lie beside the file as `<path>.json`, so that whoever deploys it knows what to
    feed it and what to expect.

    Args:
        path: The `.tflite` file.
        scheme: How it is quantized, for example `"int8"`; of layers with several schemes the names
            of all, as in `"int8+w4a8"`.
        io: Type of its quantized inputs and outputs, for example `"int8"`.
        bytes: File size.
        gzip_bytes: Size after gzip at level 9.
        sha256: Checksum of the file.
        ops: How often each operator occurs.
        float_islands: Operators that were left in float although the scheme is an integer one;
            empty for the float schemes.
        requants: Conversions from one integer grid to another.
        sparsity: Fraction of exact zeros of each weight tensor.
        parameters: Number of weights and biases.
        nonzeros: Number of weights and biases that are not zero.
        weight_bytes: Bytes of the weights by type.
        fidelity: How close the file is to its model, or `None` when that was not measured.
        inputs: What goes in, in the order of the model.
        outputs: What comes out.
        preprocessing: What was done to the data before the model saw it; must be done on the
            device, too.
        plan_skipped: What the technique left alone, one dictionary a row, with the reason.
        notes: Sentences on what the runtime makes of the scheme and on what was done to the model.
        versions: Versions of the libraries that made the file.

    Example:

    ```python
    artifact = tfcompress.convert(model, "model.tflite", calibration=samples)
    print(artifact)
    artifact == Artifact.load("model.tflite")  # True
    ```
    """

    path: Path
    scheme: str
    io: str
    bytes: int
    gzip_bytes: int
    sha256: str
    ops: dict[str, int]
    float_islands: list[str]
    requants: list[str]
    sparsity: dict[str, float]
    parameters: int
    nonzeros: int
    weight_bytes: dict[str, int]
    fidelity: Fidelity | None
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    plan_skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def describe(
        cls,
        path: str | PathLike[str],
        scheme: str,
        io: str,
        *,
        fidelity: Fidelity | None = None,
        inspection: Inspection | None = None,
        input_order: Sequence[str] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        plan_skipped: Sequence[Mapping[str, Any]] = (),
    ) -> Artifact:
        """Collect the facts about a file that was just written.

        Args:
            path: The `.tflite` file.
            scheme: A key of `SCHEMES`.
            io: Type of its quantized inputs and outputs.
            fidelity: What `verify` returned.
            inspection: What `inspect_file` returned, to save looking again.
            input_order: Names of the inputs in the order of the model; the file sorts them.
            preprocessing: JSON-able description of what the model must be fed.
            plan_skipped: JSON-able rows of what was left alone, with reasons.

        Raises:
            TypeError: If `preprocessing` or `plan_skipped` holds what JSON cannot.
        """
        facts = inspection or inspect_file(path)
        specs = {spec.name: spec for spec in facts.inputs}
        # An input that nothing reads is dropped from the file.
        order = [name for name in input_order or specs if name in specs]
        return cls(
            path=Path(path),
            scheme=scheme,
            io=io,
            bytes=facts.bytes,
            gzip_bytes=facts.gzip_bytes,
            sha256=_checksum(Path(path)),
            ops=facts.ops,
            float_islands=facts.float_islands if SCHEMES[scheme].integer else [],
            requants=facts.requants,
            sparsity=facts.sparsity,
            parameters=facts.parameters,
            nonzeros=facts.nonzeros,
            weight_bytes=facts.weight_bytes,
            fidelity=fidelity,
            inputs=[specs[name] for name in order],
            outputs=list(facts.outputs),
            preprocessing=_jsonable(preprocessing or {}),
            plan_skipped=_jsonable(list(plan_skipped)),
            notes=[f"{scheme}: {SCHEMES[scheme].caution}"] if SCHEMES[scheme].caution else [],
            versions=_versions(),
        )

    @property
    def sidecar(self) -> Path:
        """Where the facts are kept: `model.tflite.json` for `model.tflite`."""
        return self.path.with_name(self.path.name + ".json")

    def save(self) -> Path:
        """Write the sidecar; returns its path."""
        return atomic_write_text(self.sidecar, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Artifact:
        """Read the sidecar of a `.tflite` file.

        Args:
            path: The `.tflite` file, or its sidecar.

        Raises:
            FileNotFoundError: If the file or its sidecar is missing.
            ValueError: If the sidecar is not one of tfcompress, or belongs to another file.
        """
        file = Path(path)
        if file.name.endswith(".tflite.json"):
            file = file.with_name(file.name.removesuffix(".json"))
        sidecar = file.with_name(file.name + ".json")
        for wanted in (file, sidecar):
            if not wanted.is_file():
                raise FileNotFoundError(
                    "An artifact is a TFLite file and its JSON sidecar. "
                    f"Missing: {wanted}. Use `inspect_file` for a TFLite file alone."
                )
        try:
            fields = json.loads(sidecar.read_text(encoding="utf-8"))
            version = fields.pop("format")
            if version != _FORMAT:
                raise ValueError(f"its format is {version!r}, not {_FORMAT}")
            for key, kind in (("inputs", TensorSpec), ("outputs", TensorSpec)):
                fields[key] = [kind.from_dict(entry) for entry in fields[key]]
            if fields["fidelity"] is not None:
                fields["fidelity"] = Fidelity.from_dict(fields["fidelity"])
            artifact = cls(**{**fields, "path": file})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"This is not the sidecar of an artifact ({error}). Received: {sidecar}"
            ) from error
        if artifact.sha256 != _checksum(file):
            raise ValueError(
                "The sidecar belongs to another file: their checksums differ, so the export was "
                f"interrupted or the file replaced. Export again. Received: {file}"
            )
        return artifact

    def to_dict(self) -> dict[str, Any]:
        """Return what the sidecar holds."""
        return {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "path": self.path.name,
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
        }

    def _rows(self) -> list[tuple[str, str]]:
        zeros = 1 - self.nonzeros / self.parameters if self.parameters else 0.0
        rows = [
            ("file", f"{self.bytes:,} bytes, {self.gzip_bytes:,} gzipped"),
            ("scheme", f"{self.scheme}, {self.io} inputs and outputs"),
            *(("input", str(spec)) for spec in self.inputs),
            *(("output", str(spec)) for spec in self.outputs),
            ("ops", ", ".join(f"{name} {count}" for name, count in self.ops.items())),
            ("weights", f"{self.parameters:,} parameters, {zeros:.1%} of them zero"),
        ]
        # Schemes of layers are all of integers.
        if self.scheme not in SCHEMES or SCHEMES[self.scheme].integer:
            rows.append(("float ops", ", ".join(self.float_islands) or "none"))
        if self.requants:
            rows.append(("requantized", ", ".join(self.requants)))
        rows.append(("fidelity", str(self.fidelity) if self.fidelity else "not measured"))
        if self.preprocessing:
            rows.append(("fed with", json.dumps(self.preprocessing)))
        for row in self.plan_skipped:
            rows.append(("skipped", ", ".join(str(value) for value in row.values())))
        rows += [("note", note.replace("\n", " ")) for note in self.notes]
        return rows

    def to_c_array(self, path: str | PathLike[str], name: str | None = None) -> Path:
        """Write the file as C++ source, a `.cc` and a `.h` file, for microcontrollers.

        Args:
            path: Path of the `.cc` file; the `.h` file goes beside it.
            name: Name of the array. Default: made from the name of the file.

        Returns:
            The path of the `.cc` file.

        Raises:
            FileNotFoundError: If the artifact's file is gone.
            ValueError: If `name` is no identifier of C++.
        """
        from tfcompress.export.c_array import write_c_array

        return write_c_array(self.path.read_bytes(), path, name)[0]

    def to_frame(self) -> pandas.DataFrame:
        """Return a row for each operator that holds weights or multiplies (needs pandas).

        Columns are the name, operator, parameters, non-zero parameters, sparsity, bits, bytes and
        multiply-accumulate operations.

        Raises:
            FileNotFoundError: If the file is gone.
        """
        import pandas

        rows = [{**asdict(layer), "sparsity": layer.sparsity} for layer in self._layers()]
        return pandas.DataFrame(rows).drop(columns="sqnr", errors="ignore")

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw where the bytes and the multiplications are (needs matplotlib).

        Args:
            ax: Axes to draw into. Defaults to a new figure.

        Returns:
            The axes.

        Raises:
            FileNotFoundError: If the file is gone.
        """
        from tfcompress.evaluation.layer_plots import draw_shares

        return draw_shares(self._layers(), ax)

    def _layers(self) -> list[LayerResult]:
        from tfcompress.evaluation.file_layers import file_layers
        from tfcompress.export.flatbuffer import Flatbuffer, read_tflite

        return file_layers(Flatbuffer(read_tflite(self.path)[1], str(self.path)))

    def __str__(self) -> str:
        lines = [str(self.path)]
        for name, value in self._rows():
            lines += textwrap.wrap(
                f"{name:<12}{value}", 80, subsequent_indent=" " * 12, break_on_hyphens=False
            )
        return "\n".join(lines)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table><caption>{html.escape(str(self.path))}</caption>{rows}</table>"


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _jsonable(value: Any) -> Any:
    """Return `value` as JSON will give it back, so that a loaded artifact equals this one."""

    def convert(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        raise TypeError(
            "The sidecar is JSON: only numbers, texts, lists and dictionaries can be stored. "
            f"Received: {item!r}"
        )

    return json.loads(json.dumps(value, default=convert))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # tensorflow and tensorflow-cpu are alternatives; sources need not be installed.
            continue
    return found

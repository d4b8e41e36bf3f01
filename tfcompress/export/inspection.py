"""What a TFLite file holds: operators, types, scales, sparsity, and what was left in float.

Reads the flatbuffer with the schema that ships with the LiteRT runtime: neither TensorFlow nor
Keras is imported, and nothing in the file is executed.
"""

from __future__ import annotations

import gzip
import html
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

from tfcompress.export.file_parts import Operator, Weight
from tfcompress.export.flatbuffer import Flatbuffer, read_tflite
from tfcompress.export.tensor_spec import TensorSpec

if TYPE_CHECKING:
    import pandas

# Results an integer-only operator may have: codes, biases and shapes, indices, comparisons.
_INT8_RESULTS = frozenset({"int8", "int4", "int32", "int64", "bool"})
_WEIGHT_TYPES = frozenset({"float32", "float16", "bfloat16", "int8", "uint8", "int4", "int2"})


@dataclass(frozen=True, repr=False)
class Inspection:
    """Everything `inspect_file` found; prints as a table.

    Args:
        path: The file, or `None` when bytes were given.
        bytes: File size.
        gzip_bytes: Size after gzip at level 9.
        description: What the writer of the file says about itself.
        min_runtime: Lowest LiteRT version that runs the file, or `None` when not stated.
        inputs, outputs: What goes in and comes out.
        output_steps: Distance between two neighbouring values of each output: its scale, or the
            scale of the integers that it was converted from, or `None` for a true float output.
        operators: All operators of all subgraphs.
        weights: All constant tensors that the model computes with, biases included.
        stateful: Whether running the file once changes what it computes next.
    """

    path: str | None
    bytes: int
    gzip_bytes: int
    description: str
    min_runtime: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_steps: dict[str, float | None]
    operators: tuple[Operator, ...]
    weights: tuple[Weight, ...]
    stateful: bool

    def _labels(self, role: str) -> list[str]:
        return [operator.label for operator in self.operators if operator.role == role]

    @cached_property
    def ops(self) -> dict[str, int]:
        """How often each operator occurs, most frequent first."""
        return dict(Counter(operator.name for operator in self.operators).most_common())

    @property
    def float_islands(self) -> list[str]:
        """Operators that compute in float; in a float file that is all of them."""
        return self._labels("float")

    @property
    def requants(self) -> list[str]:
        """Conversions from one integer grid to another, each a rounding that costs accuracy."""
        return self._labels("requantize")

    @property
    def custom(self) -> list[str]:
        """Flex and other custom operators, which a plain LiteRT runtime does not have."""
        return self._labels("custom")

    @property
    def variables(self) -> list[str]:
        """Variable operators; a file with any of them computes with uninitialised memory."""
        return self._labels("variable")

    @property
    def fully_int8(self) -> bool:
        """Whether every operator computes on 8-bit integers, conversions at the edges aside."""
        inner = [operator for operator in self.operators if operator.role != "edge"]
        return any("int8" in operator.output_dtypes for operator in inner) and all(
            operator.role in ("integer", "requantize")
            and _INT8_RESULTS.issuperset(operator.output_dtypes)
            for operator in inner
        )

    @cached_property
    def sparsity(self) -> dict[str, float]:
        """Fraction of exact zeros in each weight of rank 2 and above, by tensor name."""
        return {
            weight.name: weight.zeros
            for weight in self.weights
            if len(weight.shape) > 1 and weight.dtype in _WEIGHT_TYPES
        }

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(weight.size for weight in self.weights)

    @property
    def nonzeros(self) -> int:
        """Number of weights and biases that are not zero."""
        return sum(round(weight.size * (1 - weight.zeros)) for weight in self.weights)

    @cached_property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the weights by type."""
        total: Counter[str] = Counter()
        for weight in self.weights:
            total[weight.dtype] += weight.bytes
        return dict(total)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "path": self.path,
            "bytes": self.bytes,
            "gzip_bytes": self.gzip_bytes,
            "description": self.description,
            "min_runtime": self.min_runtime,
            "fully_int8": self.fully_int8,
            "stateful": self.stateful,
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "ops": self.ops,
            "float_islands": self.float_islands,
            "requants": self.requants,
            "custom": self.custom,
            "variables": self.variables,
            "parameters": self.parameters,
            "nonzeros": self.nonzeros,
            "weight_bytes": self.weight_bytes,
            "sparsity": self.sparsity,
            "operators": [asdict(operator) for operator in self.operators],
            "weights": [asdict(weight) for weight in self.weights],
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per operator (needs pandas)."""
        import pandas

        columns = list(Operator.__dataclass_fields__)
        return pandas.DataFrame([asdict(row) for row in self.operators], columns=columns)

    def __str__(self) -> str:
        lines = [self.path] if self.path else []
        lines.append(
            f"{self.bytes:,} bytes, {self.gzip_bytes:,} gzipped; {self.parameters:,} parameters, "
            f"{self.nonzeros:,} non-zero"
        )
        runtime = f"; needs LiteRT {self.min_runtime}" if self.min_runtime else ""
        lines.append(f"fully int8: {'yes' if self.fully_int8 else 'no'}{runtime}")
        lines += [f"input   {spec}" for spec in self.inputs]
        lines += [f"output  {spec}" for spec in self.outputs]
        counts = ", ".join(f"{name} {count}" for name, count in self.ops.items())
        lines += textwrap.wrap(f"ops     {counts}", 80, subsequent_indent=" " * 8)
        for title, labels in (
            ("float islands", self.float_islands),
            ("requantized", self.requants),
            ("custom ops", self.custom),
            ("variables", self.variables),
        ):
            # In a file where everything is float, a list of everything says nothing.
            if len(labels) == len(self.operators) and title == "float islands":
                lines.append(f"{title}: every operator ({len(labels)})")
                continue
            lines.append(f"{title}: {len(labels) or 'none'}")
            lines += [f"  {_clip(label, 78)}" for label in labels]
        lines += ["", f"{'weight':<41}{'shape':>14} {'dtype':>8}{'scales':>7}{'zeros':>9}"]
        lines += [
            f"{_clip(weight.name, 40):<41}{'x'.join(map(str, weight.shape)):>14} "
            f"{weight.dtype:>8}{weight.scales:>7}{weight.zeros:>9.2%}"
            for weight in self.weights
        ]
        return "\n".join(lines)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{o.index}</td><td>{html.escape(o.name)}</td><td>{o.role}</td>"
            f"<td>{html.escape(', '.join(o.output_dtypes))}</td>"
            f"<td>{html.escape(_clip(', '.join(o.outputs), 90))}</td></tr>"
            for o in self.operators
        )
        summary = html.escape(str(self).split("\n\n")[0])
        return (
            f"<pre>{summary}</pre><table><thead><tr><th></th><th>op</th><th>computes in</th>"
            f"<th>dtype</th><th>output</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def inspect_file(source: str | PathLike[str] | bytes) -> Inspection:
    """Describe a TFLite file without running it.

    Args:
        source: Path of a `.tflite` file, or its content.

    Returns:
        An `Inspection`: print it, or read `.ops`, `.float_islands`, `.sparsity`, `.fully_int8`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, truncated, or not a TFLite file.

    Example:

    ```python
    report = tfcompress.inspect_file("model.tflite")
    print(report)
    report.float_islands  # [] when nothing was left in float
    ```
    """
    path, content = read_tflite(source)
    graphs = Flatbuffer(content, path or "the given bytes")
    return Inspection(
        path=path,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, compresslevel=9, mtime=0)),
        description=graphs.description,
        min_runtime=graphs.min_runtime,
        inputs=tuple(graphs.inputs),
        outputs=tuple(graphs.outputs),
        output_steps=graphs.output_steps,
        operators=tuple(graphs.operators),
        weights=tuple(graphs.weights),
        stateful=graphs.stateful,
    )


def _clip(text: str, width: int) -> str:
    """Keep the end of `text`: in tensor names that is the part that tells them apart."""
    return text if len(text) <= width else "…" + text[-(width - 1) :]

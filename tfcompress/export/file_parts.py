"""What a TFLite file consists of: operators, tensors that flow, and weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfcompress.export.tensor_spec import TensorSpec


@dataclass(frozen=True)
class Operator:
    """One operator of the file.

    Args:
        index: Position in its subgraph, in execution order.
        name: LiteRT's name, for example `"CONV_2D"`; custom operators are `"CUSTOM:<name>"`.
        subgraph: Index of the subgraph that it belongs to.
        inputs, outputs: Names of its tensors.
        input_dtypes, output_dtypes: Types of these tensors.
        role: `"integer"`, `"float"`, `"conversion"` (between float and integer in the middle of
            the graph), `"requantize"`, `"edge"` (conversion of a model input or output),
            `"variable"` or `"custom"`.
        input_shapes, output_shapes: Shapes of the tensors.
    """

    index: int
    name: str
    subgraph: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    role: str
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def label(self) -> str:
        """The operator and what it computes, for example `"ELU -> net/elu"`."""
        return f"{self.name} -> {self.outputs[0] if self.outputs else '(nothing)'}"


@dataclass(frozen=True)
class Activation:
    """One tensor that flows through the main graph.

    Args:
        index: Its number in the file.
        operator: LiteRT's name of the operator that computes it; empty for an input.
        spec: Name in the graph, shape, type and grid.
    """

    index: int
    operator: str
    spec: TensorSpec


@dataclass(frozen=True)
class Weight:
    """One constant tensor that the model computes with.

    Args:
        name: Tensor name, made unique.
        shape: Shape as stored (LiteRT's layouts differ from Keras').
        dtype: Stored type.
        scales: Number of quantization scales: 0, 1 (per tensor) or one per channel.
        zeros: Fraction of the entries that is exactly zero, or that has the code of zero.
        bytes: Stored size.
        sparse: Whether TFLite's sparse encoding is used.
        operator: Name of the first operator that reads it.
        reader: Position of that operator among all of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: int
    zeros: float
    bytes: int
    sparse: bool
    operator: str
    reader: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

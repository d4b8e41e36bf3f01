"""The layers of a TFLite file: weights by the operator that reads them, and its multiplications."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from tfcompress.evaluation.results import LayerResult

if TYPE_CHECKING:
    from tfcompress.export.file_parts import Operator, Weight
    from tfcompress.export.flatbuffer import Flatbuffer


RECURRENT = frozenset(
    {
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "LSTM",
        "RNN",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
    }
)


def file_layers(parsed: Flatbuffer) -> list[LayerResult]:
    """Return the operators that read weights or multiply, in execution order."""
    read: dict[int, list[Weight]] = defaultdict(list)
    for weight in parsed.weights:
        read[weight.reader].append(weight)
    layers = []
    for position, operator in enumerate(parsed.operators):
        weights = read.get(position, [])
        macs = operator_macs(operator)
        if not weights and macs == 0:
            continue
        largest = max(weights, key=lambda weight: weight.size, default=None)
        size = sum(weight.size for weight in weights)
        layers.append(
            LayerResult(
                name=operator.outputs[0] if largest is None else largest.name,
                operator=operator.name,
                parameters=size,
                nonzeros=sum(round(w.size * (1 - w.zeros)) for w in weights),
                bits=8 * largest.bytes / largest.size if largest and largest.size else 0.0,
                bytes=sum(weight.bytes for weight in weights),
                macs=macs,
            )
        )
    return layers


def operator_macs(operator: Operator) -> int | None:
    """Return the multiply-accumulate operations of an operator for one sample.

    Counted are convolutions and products of matrices, as `tfcompress.graph.macs` does for Keras
    models; LiteRT's layouts are in its schema.

    Args:
        operator: An operator with the shapes of its tensors.

    Returns:
        The number; `None` where an operator multiplies as often as a loop runs.
    """
    if operator.name in RECURRENT:
        return None
    macs = _macs_once(operator)
    # The other graphs of a file are bodies of loops and branches.
    return None if macs and operator.subgraph else macs


def _macs_once(operator: Operator) -> int:
    shapes = operator.input_shapes
    outputs = math.prod(operator.output_shapes[0]) if operator.output_shapes else 0
    match operator.name:
        case "CONV_2D" | "FULLY_CONNECTED":
            return outputs * math.prod(shapes[1][1:])
        case "DEPTHWISE_CONV_2D":
            return outputs * math.prod(shapes[1][1:3])
        case "CONV_3D":
            return outputs * math.prod(shapes[1][:4])
        case "TRANSPOSE_CONV":
            # Its inputs are the output's shape, the weights and the values.
            return math.prod(shapes[2]) * math.prod(shapes[1][:3])
        case "BATCH_MATMUL":
            rows = math.prod(operator.output_shapes[0][:-1])
            return outputs * math.prod(shapes[0]) // max(rows, 1)
    return 0

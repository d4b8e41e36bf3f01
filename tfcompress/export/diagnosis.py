"""Making sense of a converter's log: which operators and layers are involved, and the cure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Operators that are known to take the converter down or to make it fail, by graph name.
SUSPECT_OPS = frozenset(
    {"While", "StatelessWhile", "TensorListReserve", "QuantizeAndDequantizeV2",
     "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4"}
)  # fmt: skip

_CURES: tuple[tuple[str, str], ...] = (
    (
        r"While|TensorList",
        "The converter cannot quantize a loop, such as a rolled LSTM or GRU: rebuild these layers "
        "with `unroll=True` and the same weights, or convert with scheme='float32'.",
    ),
    (
        r"QuantizeAndDequantize",
        "`tf.quantization.quantize_and_dequantize` crashes the converter: use fake quantization "
        "(`tfcompress.quantize_aware`) instead.",
    ),
    (
        r"mismatched quantized axes|quant axis",
        "Fake-quant ops on the weights cannot be converted: export the quantization-aware model "
        "with `tfcompress.export`, which stores the weights on their grid.",
    ),
    (
        r"custom_objects|Could not locate (class|function)|register_keras_serializable",
        "The child process does not have the code of a custom layer: pass the model itself "
        "(TensorFlow backend), or a SavedModel written by `model.export(folder)`.",
    ),
    (
        r"safe_mode|unsafe deserialization|arbitrary code",
        "A Lambda layer in a file is code, which is not executed: replace it by a registered "
        "layer, or pass a SavedModel written by `model.export(folder)`.",
    ),
    (
        r"[Ff]lex|SELECT_TF_OPS|custom op|needs? a TF op",
        "LiteRT has no kernel for this operator: replace the layer that makes it.",
    ),
    (r"Failed to allocate|MemoryError|bad_alloc|ResourceExhausted", "The memory was used up."),
)
_OPERATORS = re.compile(r"'((?:tf|tfl|quant)\.\w+)' op|\b(tf\.\w+) op is neither|^\s*(tf\.\w+)\(")
_LAYERS = re.compile(r'"(?:\w+:)?([\w./-]+/[\w./-]+)(?:@[\w.]*)?"')


def diagnose(log: str, notes: Iterable[Mapping[str, Any]] = ()) -> str:
    """Name the operators and layers in a log and, where known, what to do.

    Args:
        log: What the child process printed, and the text of its exception.
        notes: What its job told the parent before it died: `suspects` are dangerous operators of
            the graph, `stage` is how far the job got.

    Returns:
        Sentences to put behind an error message; empty when nothing is known.
    """
    suspects = [suspect for entry in notes for suspect in entry.get("suspects", ())]
    stages = [entry["stage"] for entry in notes if "stage" in entry]
    operators = _unique(next(filter(None, groups), "") for groups in _OPERATORS.findall(log))
    # What starts with a slash is a file in a stack trace.
    layers = _unique(name for name in _LAYERS.findall(log) if not name.startswith("/"))
    parts = []
    if stages:
        parts.append(f"It got as far as: {stages[-1]}.")
    if operators:
        parts.append(f"Operators in the log: {', '.join(operators[:5])}.")
    if layers:
        parts.append(f"Layers in the log: {', '.join(layers[:5])}.")
    if suspects:
        named = _unique(f"{suspect['name']} ({suspect['op']})" for suspect in suspects)
        parts.append(f"Likely cause: {', '.join(named[:5])}.")
    evidence = " ".join([log, *(suspect["op"] for suspect in suspects)])
    parts += [cure for pattern, cure in _CURES if re.search(pattern, evidence)][:2]
    return " ".join(parts)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))

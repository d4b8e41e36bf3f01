"""How far the outputs of a quantized model are from those of the float model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What stands for outputs that are equal to the last bit.
BEST_SQNR = 200.0


@dataclass(frozen=True)
class OutputDistance:
    """How far outputs are from reference outputs.

    Attributes:
        sqnr: Signal-to-quantization-noise ratio in dB over all outputs, as they are: those of a
            softmax as probabilities, whose rounding to 1/256 would be all that is seen of their
            logits. The signal is what differs between samples.
        agreement: Share of samples with the same arg-max, over the outputs with more than one
            entry in the last dimension; None when there is none.
    """

    sqnr: float
    agreement: float | None

    def __str__(self) -> str:
        text = f"SQNR {self.sqnr:.1f} dB"
        return text if self.agreement is None else f"{text}, same class {self.agreement:.1%}"


def output_distance(expected: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> OutputDistance:
    """Compare the outputs of two models on the same samples.

    Args:
        expected: Reference outputs, shape (n, ...), one array for each output of the model.
        seen: Likewise.

    Returns:
        The distance.
    """
    signal = noise = 0.0
    agreed = []
    for wanted, found in zip(expected, seen, strict=True):
        wanted, found = np.asarray(wanted, "float64"), np.asarray(found, "float64")
        noise += float(np.square(wanted - found).sum())
        signal += float(np.square(wanted - wanted.mean(axis=0)).sum())
        if wanted.ndim > 1 and wanted.shape[-1] > 1:
            agreed.append((wanted.argmax(-1) == found.argmax(-1)).ravel())
    ratio = 10 * math.log10(max(signal, 1e-30) / noise) if noise else BEST_SQNR
    agreement = float(np.concatenate(agreed).mean()) if agreed else None
    return OutputDistance(min(ratio, BEST_SQNR), agreement)

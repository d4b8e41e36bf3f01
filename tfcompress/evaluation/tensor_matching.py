"""Finding the tensors of a Keras model in a TFLite file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfcompress.export.file_parts import Activation


@dataclass(frozen=True)
class Point:
    """A tensor of the model that is looked for in the file.

    Attributes:
        name: The layer whose output it is.
        kind: Class of the layer.
        range: `(low, high)` of its quantizer, or None when it is known by its name only.
        aliases: The layers that LiteRT fuses into one operator, whose output the tensor is.
        tensor: The name that the tensor has in another file of the same model; empty for none.
        inside: Whether it is a value inside of the layer, and not its output.
    """

    name: str
    kind: str
    range: tuple[float, float] | None = None
    aliases: tuple[str, ...] = ()
    tensor: str = ""
    inside: bool = False

    @property
    def absence(self) -> str:
        """Why it may not be in the file."""
        if self.range is None:
            return "the file has no tensor of that name and size"
        if self.inside:
            return "the file has no tensor of that shape and scale, or masks it"
        return "the file has no tensor of that shape and scale"

    @property
    def grid(self) -> tuple[float, int]:
        """Scale and zero point that the converter derives from the range."""
        low, high = self.range or (0.0, 0.0)
        scale = (high - low) / 255
        zero_point = -128 - low / scale
        return scale, int(np.clip(np.round(zero_point), -128, 127))


def match(
    points: Sequence[Point],
    expected: Mapping[int, np.ndarray],
    activations: Sequence[Activation],
    seen: Mapping[int, np.ndarray],
) -> dict[int, Activation]:
    """Find the counterpart of each point.

    A quantized tensor is known by its size, scale and zero point, any other by its size and the
    layer's name. Where several fit, the name decides, then the values.

    Args:
        points: What is looked for.
        expected: By position in `points`, the model's values on some samples, shape (n, …).
        activations: The tensors of the file.
        seen: By tensor number, the file's values on the same samples, shape (n, …).

    Returns:
        By position in `points`; what was not found is left out.
    """
    found: dict[int, Activation] = {}
    taken: set[int] = set()
    for number, point in enumerate(points):
        size = expected[number].size
        fitting = [
            activation
            for activation in activations
            if activation.index not in taken
            and seen[activation.index].size == size
            and _fits(point, activation)
        ]
        # What stands for a masked score is another value in the file; softmax makes zeros of both.
        if point.inside and any(a.operator.startswith("SELECT") for a in fitting):
            continue
        named = [activation for activation in fitting if activation.spec.name == point.tensor]
        named = named or [activation for activation in fitting if _named_after(point, activation)]
        if not fitting or (point.range is None and not named):
            continue
        values = expected[number].reshape(-1)
        best = min(
            named or fitting,
            key=lambda a: float(
                np.abs(a.spec.dequantize(seen[a.index]).reshape(-1) - values).sum()
            ),
        )
        found[number] = best
        taken.add(best.index)
    return found


def _fits(point: Point, activation: Activation) -> bool:
    spec = activation.spec
    if point.range is None:
        return spec.quantized or spec.dtype.startswith("float")
    if spec.scale is None or spec.zero_point is None:
        return False
    scale, zero_point = point.grid
    return abs(spec.scale - scale) <= 1e-3 * scale and abs(spec.zero_point - zero_point) <= 1


def _named_after(point: Point, activation: Activation) -> bool:
    # A fused operator lists all it was made of, the last operation first.
    last = activation.spec.name.split(";")[0]
    if last.startswith("StatefulPartitionedCall"):
        return True  # an output of the model, whose own name the converter replaced
    layers = [name.split("/")[-1].split("@")[0] for name in (point.name, *point.aliases)]
    named = re.compile("(" + "|".join(map(re.escape, layers)) + r")(_\d+)?")
    return any(named.fullmatch(part) for part in last.split("/"))

"""What mixed precision chose for every layer, and the curve that it chose from."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfcompress import text_table
from tfcompress.evaluation.figures import write_bytes
from tfcompress.evaluation.palette import ENTRIES, MUTED
from tfcompress.quantization.schemes import Scheme

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerBits:
    """What one layer gets.

    Attributes:
        layer: Name of the layer, as in a `SchemeMap`.
        weights: Number of weights in its kernels.
        bits: 8, 4, or 32 for float.
        saved: Bytes that 4 bits save in the file; 0 where LiteRT cannot store them.
        costs: What each width costs, as the strategy measures it.
    """

    layer: str
    weights: int
    bits: int
    saved: int
    costs: dict[int, float]


@dataclass(frozen=True)
class ParetoPoint:
    """One choice on the curve of bytes and cost.

    Attributes:
        bytes: Size of the file that is expected.
        cost: Sum of the costs of the layers.
        bits: Bits by layer.
        drop: What the quantized model loses, where it was tried; else None.
    """

    bytes: int
    cost: float
    bits: dict[str, int]
    drop: float | None = None


@dataclass(frozen=True, repr=False)
class Allocation:
    """What `mixed_precision` chose: prints as a table, `scheme` quantizes with it.

    Attributes:
        model: Name of the model.
        strategy: `"global"`, `"distribution"` or `"mixed"`.
        layers: What each layer gets, in the order of the network.
        bytes: Size of the file that is expected.
        metric: What `drop` is about, such as `"accuracy"`.
        drop: What the quantized model loses on the samples, before it is written; None where that
            was not measured.
        points: Choices from most to fewest bytes: the Pareto curve as far as costs add up.
    """

    model: str
    strategy: str
    layers: tuple[LayerBits, ...]
    bytes: int
    metric: str
    drop: float | None
    points: tuple[ParetoPoint, ...]

    @property
    def bits(self) -> dict[str, int]:
        """Bits by layer."""
        return {row.layer: row.bits for row in self.layers}

    @property
    def scheme(self) -> dict[str, Scheme | str | None]:
        """Schemes by layer, for `quantize_aware` and `convert`."""
        return scheme_of(self.bits)

    def to_frame(self) -> pandas.DataFrame:
        """Return a row a layer."""
        import pandas

        columns = ["layer", "weights", "bits", "saved"]
        rows = [
            {
                **{column: getattr(row, column) for column in columns},
                **{f"cost at {width}": cost for width, cost in row.costs.items()},
            }
            for row in self.layers
        ]
        return pandas.DataFrame(rows)

    def pareto_frame(self) -> pandas.DataFrame:
        """Return a row a choice: bytes, cost, drop where it was tried, bits by layer."""
        import pandas

        rows = [
            {"bytes": point.bytes, "cost": point.cost, "drop": point.drop, **point.bits}
            for point in self.points
        ]
        return pandas.DataFrame(rows)

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the Pareto curve, with what was chosen on it.

        Args:
            ax: Axes to draw into. Defaults to a new figure.

        Returns:
            The axes; `.figure` is the figure.
        """
        from tfcompress.evaluation.plots import new_axes, style

        ax = ax if ax is not None else new_axes(4.2, 3.1)
        style(ax)
        sizes = [point.bytes / 1e3 for point in self.points]
        costs = [point.cost for point in self.points]
        ax.plot(sizes, costs, "o-", color=MUTED.light, markersize=4, linewidth=1)
        chosen = [point for point in self.points if point.bits == self.bits]
        if chosen:
            ax.plot(chosen[0].bytes / 1e3, chosen[0].cost, "s", color=ENTRIES[2].light)
        if costs and min(costs) > 0:
            ax.set_yscale("log")
        ax.set_xlabel("file size, kB")
        ax.set_ylabel("cost")
        return ax

    @property
    def summary(self) -> str:
        """One sentence: strategy, bits, expected size and loss."""
        widths = sorted({row.bits for row in self.layers}, reverse=True)
        parts = []
        for width in widths:
            names = [row.layer for row in self.layers if row.bits == width]
            what = "float" if width == FLOAT_BITS else f"{width} bits"
            parts.append(f"{what}: {', '.join(names)}")
        loss = "" if self.drop is None else f", {self.metric} drop {self.drop:.4f}"
        return (
            f"Mixed precision ({self.strategy}), {self.bytes:,} bytes expected{loss}. "
            + "; ".join(parts)
            + "."
        )

    @property
    def curve(self) -> str:
        """One sentence: bytes and cost of every choice on the curve."""
        return "Pareto curve, bytes and cost: " + ", ".join(
            f"{point.bytes:,} {point.cost:.2g}" for point in self.points
        )

    def __str__(self) -> str:
        widths = sorted({w for row in self.layers for w in row.costs}, reverse=True)
        header = ["layer", "weights", "bits", "4 bits save", *(f"cost at {w}" for w in widths)]
        rows = [
            [
                row.layer,
                f"{row.weights:,}",
                "float" if row.bits == FLOAT_BITS else str(row.bits),
                f"{row.saved:,} B" if row.saved else "-",
                *(f"{row.costs[w]:.2g}" if w in row.costs else "" for w in widths),
            ]
            for row in self.layers
        ]
        loss = "" if self.drop is None else f", {self.metric} drop {self.drop:.4f}"
        title = (
            f"Mixed precision of '{self.model}' by {self.strategy}: "
            f"{write_bytes(self.bytes)} expected{loss}"
        )
        return f"{title}\n\n{text_table.render(header, rows)}"

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        title = html.escape(str(self).splitlines()[0])
        return f"<p>{title}</p>{self.to_frame().to_html(index=False)}"


def scheme_of(bits: dict[str, int]) -> dict[str, Scheme | str | None]:
    """Return the schemes by layer that give layers so many weight bits, int8 elsewhere."""
    found: dict[str, Scheme | str | None] = {"default": "int8"}
    for layer, width in bits.items():
        if width == FLOAT_BITS:
            found[layer] = None
        elif width != 8:
            found[layer] = Scheme(weight_bits=width, weight_range="mse")
    return found

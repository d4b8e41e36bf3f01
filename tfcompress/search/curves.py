"""The result of a sensitivity search: curves of cost over level, and budgets spent along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfcompress.evaluation.output_distance import BEST_SQNR
from tfcompress.search.allocation import Option, cheapest, descend

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

COSTS = ("drop", "noise")


@dataclass(frozen=True)
class SensitivityPoint:
    """What one layer at one level costs.

    Attributes:
        method: `"sparsity"`, for example.
        layer: Name of the layer.
        level: Share of zeros, or bits.
        weights: Number of weights that were changed together.
        value: The metric.
        drop: How much worse the metric is than that of the model as it is.
        sqnr: Signal-to-noise ratio of the model's outputs in dB; 200 where nothing changed.
    """

    method: str
    layer: str
    level: float
    weights: int
    value: float
    drop: float
    sqnr: float

    @property
    def noise(self) -> float:
        """Squared error of the outputs as a share of their power: the SQNR without logarithm."""
        return 0.0 if self.sqnr >= BEST_SQNR else float(10 ** (-self.sqnr / 10))

    def cost(self, by: str) -> float:
        """What the point costs, by `"drop"` or by `"noise"`."""
        if by == "noise":
            return self.noise
        # Below what the samples tell apart, the noise decides.
        return max(self.drop, 0.0) + 1e-6 * min(self.noise, 1.0)


@dataclass(frozen=True, repr=False)
class Sensitivity:
    """What `tfcompress.sensitivity` found: prints as a table, shows itself in a notebook.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        better: 1 if more of the metric is better, -1 if less is.
        baseline: The metric of the model as it is.
        samples: Number of samples that were measured.
        points: A point for each method, layer and level.
    """

    model: str
    metric: str
    better: int
    baseline: float
    samples: int
    points: tuple[SensitivityPoint, ...]

    @property
    def methods(self) -> list[str]:
        """The methods that were measured."""
        return list(dict.fromkeys(point.method for point in self.points))

    def curves(self, method: str) -> dict[str, list[SensitivityPoint]]:
        """The points of a method by layer, in the order in which they were measured.

        Raises:
            ValueError: If the method was not measured.
        """
        if method not in self.methods:
            raise ValueError(
                f"The method was not measured; measured are {self.methods}. Received: {method!r}"
            )
        found: dict[str, list[SensitivityPoint]] = {}
        for point in self.points:
            if point.method == method:
                found.setdefault(point.layer, []).append(point)
        return found

    def levels(self, method: str) -> list[float]:
        """The levels at which a method was measured."""
        return list(dict.fromkeys(p.level for p in self.points if p.method == method))

    def sparsities(self, target: float, by: str = "noise") -> dict[str, float]:
        """Return a sparsity for each layer that together prune a share of all measured weights.

        Steepest descent on the measured curves: weights are taken where the next ones cost least,
        until there are enough. Between two levels a curve is taken as straight, and where it is not
        convex, as its convex hull: the result is the best for such curves if costs add up.

        Args:
            target: Share of all weights of the measured layers to prune.
            by: Cost that is spent: `"noise"` of the outputs, which also tells apart what a few
                hundred samples do not, or `"drop"` of the metric. Defaults to `"noise"`.

        Returns:
            Sparsity by layer name, for `callbacks.MagnitudePruning`.

        Raises:
            ValueError: If the sparsity was not measured, or the target is beyond the highest level.
        """
        _check_cost(by)
        curves = self.curves("sparsity")
        steps = {
            layer: [(0.0, 0.0), *((p.level * p.weights, p.cost(by)) for p in points)]
            for layer, points in curves.items()
        }
        total = sum(points[0].weights for points in curves.values())
        most = sum(max(gain for gain, _ in curve) for curve in steps.values())
        if not 0 <= target * total <= most * (1 + 1e-9):
            raise ValueError(
                f"`target` must be a share from 0 to {most / total:.3g}, the highest level that "
                f"was measured. Received: {target!r}"
            )
        taken = descend(steps, target * total)
        return {layer: taken[layer] / points[0].weights for layer, points in curves.items()}

    def bits(
        self,
        max_bytes: float | None = None,
        max_drop: float | None = None,
        by: str = "noise",
        widths: Sequence[int] | None = None,
    ) -> dict[str, int]:
        """Return a number of weight bits for each layer that keeps a budget.

        An integer program (multiple-choice knapsack), solved exactly. Costs of layers are taken to
        add up, which holds for small ones.

        Args:
            max_bytes: Most bytes for the codes of all measured layers together (a file also holds
                biases, scales and its graph; `tfcompress.convert(scheme="auto")` counts those). The
                cost is made least.
            max_drop: Most drop of the metric, as the sum over the layers. The bytes are made least.
            by: Cost of a layer under `max_bytes`: `"noise"` or `"drop"`. Defaults to `"noise"`.
            widths: Bits to choose from, such as `(8, 4)`, which LiteRT stores. Defaults to all that
                were measured.

        Returns:
            Bits by layer name, from which a `SchemeMap` is made.

        Raises:
            ValueError: If not exactly one budget is given, the bits were not measured, or no choice
                keeps the budget.
        """
        _check_cost(by)
        if (max_bytes is None) == (max_drop is None):
            raise ValueError(
                "Exactly one of `max_bytes` and `max_drop` is the budget. Received: "
                f"max_bytes={max_bytes!r}, max_drop={max_drop!r}"
            )
        options = {}
        for layer, points in self.curves("bits").items():
            usable = [p for p in points if widths is None or p.level in widths]
            options[layer] = [
                Option(int(p.level), p.weights * p.level / 8, p.cost(by), max(p.drop, 0.0))
                for p in usable
                if math.isfinite(p.drop)
            ]
        if max_bytes is not None:
            chosen = cheapest(options, "cost", "size", max_bytes)
        else:
            chosen = cheapest(options, "size", "drop", max_drop or 0.0)
        return {layer: option.choice for layer, option in chosen.items()}

    def to_frame(self) -> pandas.DataFrame:
        """Return a row for each method, layer and level."""
        import pandas

        columns = ["method", "layer", "level", "weights", "value", "drop", "sqnr"]
        rows = [[getattr(point, column) for column in columns] for point in self.points]
        return pandas.DataFrame(rows, columns=columns)

    def plot(
        self,
        method: str | None = None,
        figure: str = "drop",
        ax: matplotlib.axes.Axes | None = None,
    ) -> matplotlib.axes.Axes:
        """Draw a heat map: a row a layer, a column a level.

        Args:
            method: Method to show. Defaults to the first that was measured.
            figure: `"drop"` of the metric, or `"sqnr"` of the outputs in dB. Defaults to `"drop"`.
            ax: Axes to draw into. Defaults to a new figure.

        Returns:
            The axes; `.figure` is the figure.

        Raises:
            ValueError: If the method was not measured or the figure is unknown.
        """
        from tfcompress.search.sensitivity_views import draw

        return draw(self, method or self.methods[0], figure, ax)

    def __str__(self) -> str:
        from tfcompress.search.sensitivity_views import render

        return render(self)

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        from tfcompress.search.sensitivity_views import render_html

        return render_html(self)


def _check_cost(by: str) -> None:
    if by not in COSTS:
        raise ValueError(f"`by` must be one of {', '.join(map(repr, COSTS))}. Received: {by!r}")

"""What compression does to every tensor of a model, and why it leaves some alone."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tfcompress.text_table import render

if TYPE_CHECKING:
    import keras
    import matplotlib.axes
    import pandas

    from tfcompress.graph.weights import Weight


@dataclass(frozen=True)
class PlanRow:
    """One tensor of a model.

    Attributes:
        tensor: Name, such as `"conv1/kernel"` for a weight and `"conv1"` for an activation.
        layer: Path of the layer or operation that owns or makes it.
        layer_type: Its class.
        kind: `"weight"` or `"activation"`.
        shape: Shape; None where the batch or another dimension is not fixed.
        actions: Settings by technique, for what is done to the tensor.
        skipped: Reasons by technique, for what is not.
    """

    tensor: str
    layer: str
    layer_type: str
    kind: str
    shape: tuple[int | None, ...]
    actions: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def describe(self, technique: str) -> str:
        """What a technique does to the tensor, in a few words."""
        if technique in self.actions:
            return ", ".join(f"{k} {v}" for k, v in self.actions[technique].items())
        return f"no: {self.skipped[technique]}" if technique in self.skipped else ""


def weight_row(
    weight: Weight,
    actions: dict[str, dict[str, Any]] | None = None,
    skipped: dict[str, str] | None = None,
) -> PlanRow:
    """The row of a weight.

    Args:
        weight: The weight.
        actions: Settings by technique, for what is done to it.
        skipped: Reasons by technique, for what is not.
    """
    return PlanRow(
        weight.name,
        weight.layer,
        type(weight.owner).__name__,
        "weight",
        tuple(weight.variable.shape),
        actions or {},
        skipped or {},
    )


@dataclass(frozen=True, repr=False)
class Plan:
    """Rows of (tensor, techniques, settings or reasons). Prints as a table; compares with `==`.

    Attributes:
        model: Name of the model.
        rows: One for each weight tensor and each activation, in the order of the model.
    """

    model: str
    rows: tuple[PlanRow, ...]

    @property
    def techniques(self) -> list[str]:
        """The techniques that the plan is about."""
        found = (t for row in self.rows for t in (*row.actions, *row.skipped))
        return list(dict.fromkeys(found))

    @property
    def left_out(self) -> list[PlanRow]:
        """Rows of tensors to which some technique does nothing."""
        return [row for row in self.rows if row.skipped]

    def __str__(self) -> str:
        header = ["tensor", "shape", *self.techniques]
        cells = [
            [
                row.tensor + ("" if row.kind == "weight" else " →"),
                "x".join("?" if n is None else str(n) for n in row.shape),
                *(row.describe(t) for t in self.techniques),
            ]
            for row in self.rows
        ]
        return f"Plan for '{self.model}' (→ marks activations)\n{render(header, cells)}"

    # In a Python shell the object alone shows the table, as it does in a notebook.
    __repr__ = __str__

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the size of each weight, coloured by what is done to it (needs matplotlib).

        Args:
            ax: Axes to draw into. Defaults to a new figure.

        Returns:
            The axes.
        """
        from tfcompress.evaluation.plan_plot import draw_plan

        return draw_plan(self, ax)

    def summary(self) -> str:
        """Counts for each technique, and what is left out, grouped by reason."""
        lines = []
        for technique in self.techniques:
            done = [row for row in self.rows if technique in row.actions]
            weights = sum(row.kind == "weight" for row in done)
            activations = len(done) - weights
            parts = [
                f"{n} {word}"
                for n, word in ((weights, "weights"), (activations, "activations"))
                if n
            ]
            lines.append(f"{technique}: {', '.join(parts) or 'nothing'}")
            reasons: dict[str, list[str]] = {}
            for row in self.rows:
                if technique in row.skipped:
                    reasons.setdefault(row.skipped[technique], []).append(row.tensor)
            for why, names in reasons.items():
                text = f"  left out: {', '.join(names)} ({why})"
                lines += textwrap.wrap(text, 80, subsequent_indent="    ", break_on_hyphens=False)
        return "\n".join([f"Plan for '{self.model}'", *lines])

    def to_frame(self) -> pandas.DataFrame:
        """One row a tensor, one column a technique."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "tensor": row.tensor,
                    "layer": row.layer,
                    "layer_type": row.layer_type,
                    "kind": row.kind,
                    "shape": row.shape,
                    **{t: row.describe(t) for t in self.techniques},
                }
                for row in self.rows
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain lists and dicts."""
        return {
            "model": self.model,
            "rows": [
                {
                    "tensor": row.tensor,
                    "layer": row.layer,
                    "layer_type": row.layer_type,
                    "kind": row.kind,
                    "shape": list(row.shape),
                    "actions": row.actions,
                    "skipped": row.skipped,
                }
                for row in self.rows
            ],
        }

    def to_yaml(self) -> str:
        """The plan as YAML, which `from_yaml` reads back to an equal plan."""
        import yaml

        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """Read a plan that `to_yaml` wrote."""
        import yaml

        content = yaml.safe_load(text)
        rows = (PlanRow(**{**row, "shape": tuple(row["shape"])}) for row in content["rows"])
        return cls(content["model"], tuple(rows))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>" + self.to_frame().to_html(index=False)


def merged(model: str, plans: Iterable[Plan]) -> Plan:
    """One plan from several about the same model, a row for each tensor."""
    rows: dict[tuple[str, str], PlanRow] = {}
    for plan in plans:
        for row in plan.rows:
            known = rows.get((row.kind, row.tensor))
            if known is None:
                rows[row.kind, row.tensor] = row
                continue
            rows[row.kind, row.tensor] = replace(
                known,
                actions={**known.actions, **row.actions},
                skipped={**known.skipped, **row.skipped},
            )
    return Plan(model, tuple(rows.values()))


def plan(model: keras.Model, recipe: Any) -> Plan:
    """Tell what a recipe would do to every tensor of a model, without doing it.

    Args:
        model: A built Keras model.
        recipe: What to do: a recipe, its path or dict, of which the sections `remove_layers`,
            `shrink`, `prune` and `quantize` are enough; a quantization scheme, its name, or a dict
            of schemes by layer; a `tfcompress.callbacks.MagnitudePruning` or `StructuredPruning`;
            or a list of these. Shapes are those of the model as it is.

    Returns:
        One row for each weight tensor and, where quantization is part of it, each activation.

    Raises:
        ValueError: If the model is not built, or the recipe is not valid for it.
        TypeError: If `recipe` is none of the above.

    Example:

    ```python
    print(tfcompress.plan(model, "int8"))
    ```
    """
    from tfcompress.pruning.plan import pruning_rows
    from tfcompress.pruning.structured.plan import channel_rows
    from tfcompress.quantization.plan import plan_quantization
    from tfcompress.restructure.plan import removal_rows

    rows_of: dict[str, Callable[[keras.Model, Any], Plan]] = {
        "remove_layers": lambda model, settings: removal_rows(model, **settings),
        "shrink": channel_rows,
        "prune": pruning_rows,
        "quantize": plan_quantization,
    }
    parts = [rows_of[name](model, settings) for name, settings in _techniques(recipe)]
    return merged(model.name, parts)


def _techniques(recipe: Any) -> list[tuple[str, Any]]:
    """Break a recipe up into `("prune", callback)`, `("quantize", scheme)` and the like."""
    import os

    from tfcompress.callbacks import MagnitudePruning, StructuredPruning
    from tfcompress.quantization import schemes

    if isinstance(recipe, (list, tuple)):
        return [pair for part in recipe for pair in _techniques(part)]
    if isinstance(recipe, MagnitudePruning):
        return [("prune", recipe)]
    if isinstance(recipe, StructuredPruning):
        return [("shrink", recipe)]
    if isinstance(recipe, (schemes.Scheme, schemes.SchemeMap)):
        return [("quantize", recipe)]
    is_path = isinstance(recipe, os.PathLike) or (
        isinstance(recipe, str) and recipe.endswith((".yaml", ".yml"))
    )
    if isinstance(recipe, str) and not is_path:
        return [("quantize", schemes.get(recipe))]
    from tfcompress.recipe import Recipe

    if isinstance(recipe, dict) and not Recipe.model_fields.keys() & recipe.keys():
        return [("quantize", schemes.get(recipe))]
    if isinstance(recipe, dict) and recipe.keys() <= {
        "remove_layers",
        "shrink",
        "prune",
        "quantize",
    }:
        # What else a recipe must have does not matter to a plan.
        rest = {"data": {"source": "digits"}, "model": {"path": "model.keras"}}
        recipe = {"version": 1, "name": "plan", **rest, **recipe}
    if is_path or isinstance(recipe, dict):
        recipe = Recipe.load(recipe)
    if isinstance(recipe, Recipe):
        return recipe.techniques()
    raise TypeError(
        "`recipe` must be a recipe (object, path or dict), a scheme or its name, a "
        f"MagnitudePruning or StructuredPruning callback, or a list of these. Received: {recipe!r}"
    )

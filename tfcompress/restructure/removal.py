"""`remove_layers`: a shorter network without its least important parts."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.graph import Graph, flatten
from tfcompress.graph.bypass import bypassed, weights_in
from tfcompress.graph.macs import count_macs
from tfcompress.graph.rebuild import LayerCopies
from tfcompress.graph.selection import Patterns
from tfcompress.plain_numbers import plain_number
from tfcompress.pruning.state import apply_masks, copy_masks
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.restructure.ranking import LayerRanking, rank_layers
from tfcompress.restructure.units import Unit, find_units


def remove_layers(
    model: keras.Model,
    data: Any = None,
    n: int | None = None,
    parameters: int | float | None = None,
    macs: int | float | None = None,
    criterion: str = "cosine",
    *,
    units: str | None = None,
    exclude: Patterns = None,
    ranking: LayerRanking | None = None,
    samples: int | None = 256,
    verbose: bool = True,
) -> keras.Model:
    """Make a copy of a model without its least important residual blocks or layers.

    What reads a removed part reads what the part read. The rest keeps its weights, pruning masks
    and names; a few epochs of training make up for most of what is lost. Give exactly one of `n`,
    `parameters` and `macs`.

    Args:
        model: A built float model: Sequential, Functional, nested, or subclassed with a `call` that
            can be traced. It stays as it is.
        data: What importance is measured on, see `rank_layers`. Not needed with `ranking`.
        n: How many parts to remove.
        parameters: What may be left: a float up to 1 for a share of the weights, or a number.
        macs: What may be left of the multiplications, likewise.
        criterion: `"cosine"` or `"accuracy"`, see `rank_layers`. Defaults to `"cosine"`.
        units: `"blocks"`, `"layers"`, or None for residual blocks where there are some, else
            layers. Defaults to None.
        exclude: Parts that must stay: names, regular expressions or layer classes, of the part or
            of a layer in it. Defaults to None.
        ranking: What `rank_layers` returned for this model, to save measuring again.
        samples: Most samples to measure on. Defaults to 256.
        verbose: Whether to print what was removed. Defaults to True.

    Returns:
        A Functional model with the inputs and outputs of `model`, not compiled.

    Raises:
        ValueError: If not exactly one target is given, it cannot be met, the model is not built,
            cannot be traced, is quantization-aware, or has nothing that could be removed, or pruned
            weights are not zero any more because the model was trained without its masks.

    Reference: Men et al. 2024, "ShortGPT"; Veit et al. 2016, "Residual Networks Behave Like
    Ensembles of Relatively Shallow Networks", section 4.1.

    Example:

    ```python
    shorter = tfcompress.remove_layers(model, (x_val, y_val), macs=0.7)
    shorter.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    shorter.fit(x_train, y_train, epochs=5)
    ```
    """
    target = _target(n=n, parameters=parameters, macs=macs)
    # Says at once if pruned weights are not zero any more.
    apply_masks(model)
    graph = flatten(model)
    if any(isinstance(node.operation, ActivationQuantizer) for node in graph.nodes):
        raise ValueError(
            f"The model '{model.name}' is quantization-aware. Remove layers first and make the "
            "shorter model quantization-aware then, or `tfcompress.strip` it."
        )
    found = {unit.name: unit for unit in find_units(graph, units, exclude)}
    if ranking is None:
        if data is None:
            raise ValueError("`data` is needed to measure importance, or a `ranking`.")
        ranking = rank_layers(
            model,
            data,
            criterion,
            units=units,
            exclude=exclude,
            samples=samples,
            progress=verbose,
        )
    ordered = [found[ranked.name] for ranked in ranking.units if ranked.name in found]
    removed, shorter = _shortened(graph, ordered, *target)
    if verbose:
        print(_summary(graph, shorter, removed))
    copies = LayerCopies(shorter)
    made = copies.model()
    copy_masks(model, made, copies.twins())
    return made


def _target(**targets: int | float | None) -> tuple[str, int | float]:
    given = {name: plain_number(value) for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Give exactly one of `n`, `parameters` and `macs`. Received: {given or 'none'}"
        )
    name, value = next(iter(given.items()))
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, float) and 0 < value <= 1
    if not (whole or (share and name != "n")):
        allowed = "a whole number of at least 1" + (
            "" if name == "n" else ", or a float in (0, 1] for a share of what there is"
        )
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return name, value


def _figures(graph: Graph) -> dict[str, int]:
    return {"parameters": weights_in(graph), "macs": sum(count_macs(graph).values())}


def _shortened(
    graph: Graph, ordered: list[Unit], target: str, value: int | float
) -> tuple[list[Unit], Graph]:
    """Leave parts out in their order until the target is met."""
    dense = _figures(graph)
    limit = value * dense[target] if isinstance(value, float) else value
    removed: list[Unit] = []
    shorter = graph

    def is_met() -> bool:
        if target == "n":
            return len(removed) >= limit
        return _figures(shorter)[target] <= limit

    for unit in ordered:
        if is_met():
            break
        if _overlaps(unit, removed):
            continue
        removed.append(unit)
        shorter = bypassed(graph, {u.target: u.source for u in removed})
    if not is_met():
        reached = len(removed) if target == "n" else _figures(shorter)[target]
        raise ValueError(
            f"The target {target}={value!r} cannot be met: with all {len(removed)} parts removed "
            f"that can be, {target} is {reached:,}. Received: {target}={value!r}"
        )
    return removed, shorter


def _overlaps(unit: Unit, removed: list[Unit]) -> bool:
    """Whether a part lies within one that is removed already, or the other way round."""
    nodes = set(unit.nodes)
    return any(not nodes.isdisjoint(other.nodes) for other in removed)


def _summary(before: Graph, after: Graph, removed: list[Unit]) -> str:
    old, new = _figures(before), _figures(after)
    changes = [
        f"{name} {old[key]:,} → {new[key]:,} ({new[key] / max(old[key], 1) - 1:+.0%})"
        for key, name in (("parameters", "parameters"), ("macs", "MACs"))
    ]
    names = ", ".join(unit.name for unit in removed)
    return f"Removed from '{before.model.name}': {names}\n{', '.join(changes)}"

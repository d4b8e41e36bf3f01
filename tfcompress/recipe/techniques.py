"""From a recipe's sections to the callbacks and schemes that they stand for."""

from __future__ import annotations

from typing import Any

from tfcompress.callbacks import MagnitudePruning, QuantizationSchedule, StructuredPruning
from tfcompress.quantization import schemes
from tfcompress.recipe.schema import PruneSection, QuantizeSection, Recipe
from tfcompress.recipe.structure_sections import ShrinkSection


def pruning_callback(section: PruneSection, data: Any = None) -> MagnitudePruning:
    """Return the callback that a `prune` section describes.

    Args:
        section: The section.
        data: Samples for criteria that measure activations. Defaults to None.

    Raises:
        ValueError: If the schedule, the criterion or the pattern is unknown.
    """
    return MagnitudePruning(**section.own_settings(), data=data)


def structured_callback(section: ShrinkSection, data: Any = None) -> StructuredPruning:
    """Return the callback that a `shrink` section describes.

    Args:
        section: The section.
        data: Samples for criteria that measure on some. Defaults to None.

    Raises:
        ValueError: If the schedule or the criterion is unknown, or the goal is out of its range.
    """
    return StructuredPruning(**section.own_settings(), data=data)


def quantization_callback(section: QuantizeSection) -> QuantizationSchedule:
    """Return the callback that a `quantize` section describes."""
    return QuantizationSchedule(
        begin=section.begin,
        freeze_ranges=section.freeze_ranges,
        freeze_batchnorm=section.freeze_batchnorm,
    )


Technique = (
    dict[str, Any] | StructuredPruning | MagnitudePruning | schemes.Scheme | schemes.SchemeMap
)


def techniques(recipe: Recipe) -> list[tuple[str, Technique]]:
    """Return what a recipe does to a trained model, in the order in which it does it.

    Returns:
        Pairs: `("remove_layers", arguments)`, `("shrink", callback)`, `("prune", callback)` and
        `("quantize", scheme)`, as far as the recipe has these sections.

    Raises:
        ValueError: If a schedule, criterion or scheme is unknown.
    """
    found: list[tuple[str, Technique]] = []
    if (removal := recipe.remove_layers) is not None:
        where = {"units": removal.units, "exclude": removal.exclude}
        found.append(("remove_layers", {"target": removal.target, **where}))
    if recipe.shrink is not None:
        # What a criterion measures on is known once the recipe runs; here nothing is measured.
        found.append(("shrink", structured_callback(recipe.shrink, data=())))
    if recipe.prune is not None:
        found.append(("prune", pruning_callback(recipe.prune)))
    if recipe.quantize is not None:
        found.append(("quantize", schemes.get(recipe.quantize.scheme)))
    return found

"""Which stages a recipe has, in order."""

from __future__ import annotations

from tfcompress.recipe.job import FLOAT, Stage
from tfcompress.recipe.rounds import round_stages
from tfcompress.recipe.schema import Recipe
from tfcompress.recipe.stages import (
    PRUNED,
    QUANTIZED,
    baseline_stage,
    compressed_name,
    export_stage,
    prune_stage,
    quantize_stage,
    train_stage,
)
from tfcompress.recipe.structure_stages import SHORTENED, SHRUNKEN, remove_stage, shrink_stage


def stages(recipe: Recipe) -> list[Stage]:
    """Return what a recipe does before the comparison, in order.

    Args:
        recipe: The job.

    Returns:
        The stages; each one's files are complete before the next one starts.
    """
    found = [train_stage(recipe)]
    source = FLOAT
    if recipe.remove_layers is not None:
        found.append(remove_stage(recipe.remove_layers, source))
        source = SHORTENED
    if recipe.iterative is None:
        if recipe.shrink is not None:
            found.append(shrink_stage(recipe.shrink, source))
            source = SHRUNKEN
        if recipe.prune is not None:
            found.append(prune_stage(recipe.prune, source, PRUNED))
            source = PRUNED
        if recipe.quantize is not None:
            found.append(quantize_stage(recipe.quantize, source))
            source = QUANTIZED
    found += [baseline_stage(scheme) for scheme in recipe.export.baselines]
    if recipe.iterative is not None:
        found += round_stages(recipe, source)
    elif compressed_name(recipe) is not None:
        found.append(export_stage(recipe, source))
    return found

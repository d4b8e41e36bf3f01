"""The stages that make the float model smaller: fewer layers, fewer channels."""

from __future__ import annotations

from typing import Any

from tfcompress.pruning.structured import shrink
from tfcompress.recipe.job import Job, Stage
from tfcompress.recipe.structure_sections import RemoveLayersSection, ShrinkSection
from tfcompress.recipe.techniques import structured_callback
from tfcompress.recipe.training import fit
from tfcompress.restructure import remove_layers

SHORTENED, SHRUNKEN = "shortened", "shrunken"


def remove_stage(section: RemoveLayersSection, source: str) -> Stage:
    """Remove layers and train what is left.

    Args:
        section: How.
        source: Name of the model to read from the run folder.
    """

    def run(job: Job) -> dict[str, Any]:
        model = remove_layers(
            job.read(source), job.data, verbose=bool(job.verbose), **section.own_settings()
        )
        facts = fit(job, name, model, section)
        job.save(model, SHORTENED)
        return {"parameters": model.count_params(), **facts}

    name = "remove layers"
    (target, amount), *_ = section.target.items()
    return Stage(name, f"{name}: {target} {amount}, {section.duration}", run)


def shrink_stage(
    section: ShrinkSection, source: str, target: str = SHRUNKEN, name: str = "shrink"
) -> Stage:
    """Drive channels to zero while training, then remove them.

    Args:
        section: How.
        source: Name of the model to read from the run folder.
        target: Name of the model to write.
        name: Name of the stage.
    """

    def run(job: Job) -> dict[str, Any]:
        model = job.read(source)
        split = job.data.train
        callback = structured_callback(section, (split.x, split.y))
        facts = fit(job, name, model, section, callback)
        smaller = shrink(model, verbose=bool(job.verbose))
        job.save(smaller, target)
        return {"parameters": smaller.count_params(), **facts}

    goal, amount = section.goal
    return Stage(name, f"{name}: {goal} {amount:.3g}, {section.duration}", run)

"""The stages that make the float model smaller: fewer layers, fewer channels."""

from __future__ import annotations

from typing import Any

from tfcompress.callbacks import StructuredPruning
from tfcompress.pruning.structured import shrink
from tfcompress.recipe.epoch_backup import EpochBackup
from tfcompress.recipe.job import Job, Stage
from tfcompress.recipe.model_source import read_model
from tfcompress.recipe.structure_sections import RemoveLayersSection, ShrinkSection
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
            read_model(job.folder.model(source)),
            job.data,
            criterion=section.criterion,
            units=section.units,
            samples=section.samples,
            exclude=section.exclude,
            verbose=bool(job.verbose),
            **section.target,
        )
        backup = EpochBackup(job.folder.backup("remove layers"))
        facts = fit(model, section, job.recipe, job.data, [], backup, job.verbose)
        job.save(model, SHORTENED)
        return {"parameters": model.count_params(), **facts}

    (name, amount), *_ = section.target.items()
    title = f"remove layers: {name} {amount}, {section.epochs} epochs"
    return Stage("remove layers", title, run)


def structured_callback(section: ShrinkSection, data: Any = None) -> StructuredPruning:
    """Return the callback that a `shrink` section describes.

    Args:
        section: The section.
        data: Samples for criteria that measure on some. Defaults to None.

    Raises:
        ValueError: If the schedule or the criterion is unknown, or the goal is out of its range.
    """
    name, amount = section.goal
    goal: dict[str, Any] = {name: amount}
    return StructuredPruning(
        criterion=section.criterion,
        schedule=section.schedule,
        begin=section.begin,
        end=section.end,
        round_to=section.round_to,
        include=section.include,
        exclude=section.exclude,
        data=data,
        **goal,
    )


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
        model = read_model(job.folder.model(source))
        backup = EpochBackup(job.folder.backup(name))
        split = job.data.train
        callback = structured_callback(section, (split.x, split.y))
        facts = fit(model, section, job.recipe, job.data, [callback], backup, job.verbose)
        smaller = shrink(model, verbose=bool(job.verbose))
        job.save(smaller, target)
        return {"parameters": smaller.count_params(), **facts}

    goal, amount = section.goal
    return Stage(name, f"{name}: {goal} {amount:.3g}, {section.epochs} epochs", run)

"""The stages of a run, each from files in the run folder to files in the run folder."""

from __future__ import annotations

from typing import Any

from tfcompress.export import Artifact, convert, export
from tfcompress.files import atomic_write_text
from tfcompress.plan import plan
from tfcompress.quantization import quantize_aware
from tfcompress.recipe.epoch_backup import EpochBackup
from tfcompress.recipe.job import FLOAT, Job, Stage
from tfcompress.recipe.model_source import load_model, read_model
from tfcompress.recipe.schema import PruneSection, QuantizeSection, Recipe
from tfcompress.recipe.techniques import pruning_callback, quantization_callback
from tfcompress.recipe.training import fit

PRUNED, QUANTIZED = "pruned", "quantized"


def train_stage(recipe: Recipe) -> Stage:
    """Train the float model, or take it as it is, and write the plan."""
    source = recipe.model.architecture or recipe.model.path or recipe.model.function
    length = _epochs(recipe.train.epochs) if recipe.train else "as it is"
    return Stage("train", f"train: {source}, {length}", _train)


def prune_stage(
    section: PruneSection, source: str = FLOAT, target: str = PRUNED, name: str = "prune"
) -> Stage:
    """Prune a model while it trains.

    Args:
        section: How.
        source: Name of the model to read from the run folder.
        target: Name of the model to write.
        name: Name of the stage.
    """

    def run(job: Job) -> dict[str, Any]:
        model = read_model(job.folder.model(source))
        backup = EpochBackup(job.folder.backup(name))
        callback = pruning_callback(section, job.calibration)
        facts = fit(model, section, job.recipe, job.data, [callback], backup, job.verbose)
        if callback.reached is not None:
            facts["reached"] = str(callback.reached)
        job.save(model, target)
        return facts

    return Stage(name, f"{name}: {section.goal} in {_epochs(section.epochs)}", run)


def quantize_stage(
    section: QuantizeSection, source: str, target: str = QUANTIZED, name: str = "quantize"
) -> Stage:
    """Train a quantization-aware copy of a model; arguments as for `prune_stage`."""

    def run(job: Job) -> dict[str, Any]:
        model = read_model(job.folder.model(source))
        model = quantize_aware(
            model, section.scheme, calibration=job.calibration, verbose=bool(job.verbose)
        )
        backup = EpochBackup(job.folder.backup(name))
        callbacks = [quantization_callback(section)]
        facts = fit(model, section, job.recipe, job.data, callbacks, backup, job.verbose)
        job.save(model, target)
        return facts

    return Stage(name, f"{name}: {section.scheme_name}, {_epochs(section.epochs)}", run)


def baseline_stage(scheme: str) -> Stage:
    """Write a file of the float model to compare with."""

    def run(job: Job) -> dict[str, Any]:
        is_float = scheme == "float32"
        artifact = convert(
            job.folder.model(FLOAT),
            job.folder.artifact(baseline_name(scheme)),
            scheme=scheme,
            calibration=job.calibration,
            io="float32" if is_float else job.recipe.export.io,
            preprocessing=job.data.preprocessing.to_dict(),
        )
        return file_facts(artifact)

    name = baseline_name(scheme)
    return Stage(f"export {name}", f"export: {label(name)}", run)


def export_stage(recipe: Recipe, source: str) -> Stage:
    """Write the file of the compressed model, whose name in the run folder is `source`."""
    name = str(compressed_name(recipe))

    def run(job: Job) -> dict[str, Any]:
        return file_facts(export_model(job, source, name))

    return Stage("export compressed", f"export: {label(name, recipe)}", run)


def export_model(job: Job, source: str, name: str) -> Artifact:
    """Write the file of a compressed model.

    Args:
        job: The job.
        source: Name of the model in the run folder.
        name: Name of the file in the run folder, without its suffix.
    """
    quantized = job.recipe.quantize is not None
    return export(
        read_model(job.folder.model(source)),
        job.folder.artifact(name),
        io=job.recipe.export.io if quantized else "float32",
        calibration=job.calibration,
        tolerance=job.recipe.export.tolerance,
        preprocessing=job.data.preprocessing.to_dict(),
    )


def file_facts(artifact: Artifact) -> dict[str, Any]:
    """JSON-ready facts about a file, for the record of its stage."""
    return {"bytes": artifact.bytes, "gzip_bytes": artifact.gzip_bytes}


def baseline_name(scheme: str) -> str:
    """Return the file name, without its suffix, of a baseline."""
    return "float32" if scheme == "float32" else f"{scheme}_post_training"


def compressed_name(recipe: Recipe) -> str | None:
    """Return the compressed file's name without its suffix, `None` if there is not one of them."""
    if recipe.iterative is not None:
        return None
    parts = []
    if recipe.remove_layers is not None:
        parts.append("shortened")
    if recipe.shrink is not None:
        parts.append("shrunken")
    if recipe.prune is not None:
        parts.append("pruned")
    if recipe.quantize is not None:
        parts.append(f"qat_{recipe.quantize.scheme_name}")
    return "_".join(parts) or None


def label(name: str, recipe: Recipe | None = None) -> str:
    """Return what a file is called in the comparison."""
    if name.endswith("_post_training"):
        return name.replace("_post_training", " post-training")
    if recipe is None:
        return name
    parts = []
    if recipe.remove_layers is not None:
        parts.append("shortened")
    if recipe.shrink is not None:
        parts.append("shrunken")
    if recipe.prune is not None:
        parts.append(f"pruned {recipe.prune.goal}")
    if recipe.quantize is not None:
        parts.append(f"{recipe.quantize.scheme_name} QAT")
    return " + ".join(parts) or name


def _epochs(count: int) -> str:
    return f"{count} epoch" + ("s" if count != 1 else "")


def _train(job: Job) -> dict[str, Any]:
    model = load_model(job.recipe.model, job.data)
    the_plan = plan(model, job.recipe)
    atomic_write_text(job.folder.path / "plan.txt", f"{the_plan}\n")
    atomic_write_text(job.folder.path / "plan.yaml", the_plan.to_yaml())
    facts: dict[str, Any] = {"parameters": model.count_params()}
    backup = EpochBackup(job.folder.backup("train"))
    if job.recipe.train is not None:
        facts |= fit(model, job.recipe.train, job.recipe, job.data, [], backup, job.verbose)
    job.save(model, FLOAT)
    return facts

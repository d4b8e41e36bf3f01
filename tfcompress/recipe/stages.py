"""The stages of a run, each from files in the run folder to files in the run folder."""

from __future__ import annotations

from typing import Any

from tfcompress.export import Artifact, convert, export
from tfcompress.files import atomic_write_text
from tfcompress.plan import plan
from tfcompress.quantization import quantize_aware
from tfcompress.recipe.job import FLOAT, Job, Stage
from tfcompress.recipe.model_source import load_model
from tfcompress.recipe.schema import PruneSection, QuantizeSection, Recipe
from tfcompress.recipe.techniques import pruning_callback, quantization_callback
from tfcompress.recipe.training import fit

PRUNED, QUANTIZED = "pruned", "quantized"


def train_stage(recipe: Recipe) -> Stage:
    """Train the float model, or take it as it is, and write the plan."""
    source = recipe.model.architecture or recipe.model.path or recipe.model.function
    length = recipe.train.duration if recipe.train else "as it is"
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
        model = job.read(source)
        callback = pruning_callback(section, job.calibration)
        facts = fit(job, name, model, section, callback)
        if callback.reached is not None:
            facts["reached"] = str(callback.reached)
        job.save(model, target)
        return facts

    return Stage(name, f"{name}: {section.goal} in {section.duration}", run)


def quantize_stage(
    section: QuantizeSection, source: str, target: str = QUANTIZED, name: str = "quantize"
) -> Stage:
    """Train a quantization-aware copy of a model; arguments as for `prune_stage`."""

    def run(job: Job) -> dict[str, Any]:
        model = quantize_aware(
            job.read(source),
            section.scheme,
            calibration=job.calibration,
            verbose=bool(job.verbose),
        )
        facts = fit(job, name, model, section, quantization_callback(section))
        job.save(model, target)
        return facts

    return Stage(name, f"{name}: {section.scheme_name}, {section.duration}", run)


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
    return Stage(f"export {name}", f"export: {baseline_label(scheme)}", run)


def export_stage(recipe: Recipe, source: str) -> Stage:
    """Write the file of the compressed model, whose name in the run folder is `source`."""

    def run(job: Job) -> dict[str, Any]:
        return file_facts(export_model(job, source, str(compressed_name(recipe))))

    return Stage("export compressed", f"export: {compressed_label(recipe)}", run)


def export_model(job: Job, source: str, name: str) -> Artifact:
    """Write the file of a compressed model.

    Args:
        job: The job.
        source: Name of the model in the run folder.
        name: Name of the file in the run folder, without its suffix.
    """
    quantized = job.recipe.quantize is not None
    return export(
        job.read(source),
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


def baseline_label(scheme: str) -> str:
    """Return what a baseline is called in the comparison."""
    return "float32" if scheme == "float32" else f"{scheme} post-training"


def compressed_name(recipe: Recipe) -> str | None:
    """Return the compressed file's name without its suffix, `None` if there is not one of them."""
    if recipe.iterative is not None:
        return None
    return "_".join(word for word, _ in _changes(recipe)) or None


def compressed_label(recipe: Recipe) -> str:
    """Return what the compressed file is called in the comparison."""
    return " + ".join(words for _, words in _changes(recipe))


def _changes(recipe: Recipe) -> list[tuple[str, str]]:
    """What is done to the float model, in the names of files and in words."""
    found = []
    if recipe.remove_layers is not None:
        found.append(("shortened", "shortened"))
    if recipe.shrink is not None:
        found.append(("shrunken", "shrunken"))
    if recipe.prune is not None:
        found.append(("pruned", f"pruned {recipe.prune.goal}"))
    if recipe.quantize is not None:
        scheme = recipe.quantize.scheme_name
        found.append((f"qat_{scheme}", f"{scheme} QAT"))
    return found


def _train(job: Job) -> dict[str, Any]:
    model = load_model(job.recipe.model, job.data)
    the_plan = plan(model, job.recipe)
    atomic_write_text(job.folder.path / "plan.txt", f"{the_plan}\n")
    atomic_write_text(job.folder.path / "plan.yaml", the_plan.to_yaml())
    facts: dict[str, Any] = {"parameters": model.count_params()}
    if job.recipe.train is not None:
        facts |= fit(job, "train", model, job.recipe.train)
    job.save(model, FLOAT)
    return facts

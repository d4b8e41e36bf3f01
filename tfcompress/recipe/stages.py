"""The stages of a run, each from files in the run folder to files in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from tfcompress import datasets
from tfcompress.datasets import Dataset
from tfcompress.datasets.arrays import take
from tfcompress.export import Artifact, convert, export
from tfcompress.files import atomic_path, atomic_write_text
from tfcompress.plan import plan
from tfcompress.quantization import quantize_aware
from tfcompress.recipe.epoch_backup import EpochBackup
from tfcompress.recipe.model_source import load_model, read_model
from tfcompress.recipe.run_folder import RunFolder
from tfcompress.recipe.schema import PruneSection, QuantizeSection, Recipe
from tfcompress.recipe.techniques import pruning_callback, quantization_callback
from tfcompress.recipe.training import fit

FLOAT, PRUNED, QUANTIZED = "float", "pruned", "quantized"


@dataclass(frozen=True)
class Job:
    """What every stage works with.

    Args:
        recipe: What to do.
        folder: Where the files are.
        verbose: Keras' verbosity: 0 silent, 1 bar, 2 a line per epoch.
    """

    recipe: Recipe
    folder: RunFolder
    verbose: int

    @cached_property
    def data(self) -> Dataset:
        """The data set, loaded when the first stage asks for it."""
        section = self.recipe.data
        steps = None if section.preprocessing is None else section.preprocessing.build()
        return datasets.load(
            section.source,
            data_dir=section.data_dir,
            preprocessing=steps,
            validation=section.validation,
            download=section.download,
        )

    @cached_property
    def calibration(self) -> Any:
        """The first training samples, for ranges and for proving the exported files."""
        section = self.recipe.quantize or QuantizeSection()
        return take(self.data.train.x, slice(section.calibration_samples))


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Args:
        name: Its name in the record of the run.
        title: What is shown while it runs.
        run: Does it, and returns JSON-ready facts for the record.
    """

    name: str
    title: str
    run: Callable[[Job], dict[str, Any]]


def stages(recipe: Recipe) -> list[Stage]:
    """Return what a recipe does before the comparison, in order.

    Args:
        recipe: The job.

    Returns:
        The stages; each one's files are complete before the next one starts.
    """
    found = [Stage("train", _train_title(recipe), _train)]
    if recipe.prune is not None:
        title = f"prune: to {recipe.prune.sparsity:.0%} zeros in {_epochs(recipe.prune.epochs)}"
        found.append(Stage("prune", title, _prune(recipe.prune)))
    if recipe.quantize is not None:
        title = f"quantize: {recipe.quantize.scheme_name}, {_epochs(recipe.quantize.epochs)}"
        found.append(Stage("quantize", title, _quantize(recipe.quantize)))
    for scheme in recipe.export.baselines:
        name = baseline_name(scheme)
        found.append(Stage(f"export {name}", f"export: {label(name)}", _baseline(scheme)))
    if compressed_name(recipe) is not None:
        title = f"export: {label(str(compressed_name(recipe)), recipe)}"
        found.append(Stage("export compressed", title, _export))
    return found


def baseline_name(scheme: str) -> str:
    """Return the file name, without its suffix, of a baseline."""
    return "float32" if scheme == "float32" else f"{scheme}_post_training"


def compressed_name(recipe: Recipe) -> str | None:
    """Return the compressed file's name without its suffix, `None` if nothing is compressed."""
    parts = []
    if recipe.prune is not None:
        parts.append("pruned")
    if recipe.quantize is not None:
        parts.append(f"qat_{recipe.quantize.scheme_name}")
    return "_".join(parts) or None


def label(name: str, recipe: Recipe | None = None) -> str:
    """Return what a file is called in the comparison."""
    if name.endswith("_post_training"):
        return name.replace("_post_training", " post-training")
    parts = []
    if recipe is not None and recipe.prune is not None:
        parts.append(f"pruned {recipe.prune.sparsity:.0%}")
    if recipe is not None and recipe.quantize is not None:
        parts.append(f"{recipe.quantize.scheme_name} QAT")
    return " + ".join(parts) or name


def _train_title(recipe: Recipe) -> str:
    source = recipe.model.architecture or recipe.model.path or recipe.model.function
    return f"train: {source}, " + (_epochs(recipe.train.epochs) if recipe.train else "as it is")


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
    _save(model, job, FLOAT)
    return facts


def _prune(section: PruneSection) -> Callable[[Job], dict[str, Any]]:
    def run(job: Job) -> dict[str, Any]:
        model = read_model(job.folder.model(FLOAT))
        backup = EpochBackup(job.folder.backup("prune"))
        callbacks = [pruning_callback(section)]
        facts = fit(model, section, job.recipe, job.data, callbacks, backup, job.verbose)
        _save(model, job, PRUNED)
        return facts

    return run


def _quantize(section: QuantizeSection) -> Callable[[Job], dict[str, Any]]:
    def run(job: Job) -> dict[str, Any]:
        source = FLOAT if job.recipe.prune is None else PRUNED
        model = read_model(job.folder.model(source))
        model = quantize_aware(model, section.scheme, calibration=job.calibration)
        backup = EpochBackup(job.folder.backup("quantize"))
        callbacks = [quantization_callback(section)]
        facts = fit(model, section, job.recipe, job.data, callbacks, backup, job.verbose)
        _save(model, job, QUANTIZED)
        return facts

    return run


def _baseline(scheme: str) -> Callable[[Job], dict[str, Any]]:
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
        return _facts(artifact)

    return run


def _export(job: Job) -> dict[str, Any]:
    quantized = job.recipe.quantize is not None
    source = QUANTIZED if quantized else PRUNED
    artifact = export(
        read_model(job.folder.model(source)),
        job.folder.artifact(str(compressed_name(job.recipe))),
        io=job.recipe.export.io if quantized else "float32",
        calibration=job.calibration,
        tolerance=job.recipe.export.tolerance,
        preprocessing=job.data.preprocessing.to_dict(),
    )
    return _facts(artifact)


def _facts(artifact: Artifact) -> dict[str, Any]:
    return {"bytes": artifact.bytes, "gzip_bytes": artifact.gzip_bytes}


def _save(model: keras.Model, job: Job, name: str) -> None:
    with atomic_path(job.folder.model(name)) as temporary:
        model.save(temporary)

"""Running a recipe: train → prune → quantize → export → compare."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfcompress.evaluation import Report, compare
from tfcompress.evaluation.environment import environment
from tfcompress.export import Artifact
from tfcompress.files import atomic_write_text
from tfcompress.recipe.job import Job
from tfcompress.recipe.model_source import check_model
from tfcompress.recipe.rounds import RoundResult, check_samples, kept_round, round_results
from tfcompress.recipe.run_folder import RunFolder
from tfcompress.recipe.schema import Recipe
from tfcompress.recipe.sequence import stages
from tfcompress.recipe.stages import (
    baseline_label,
    baseline_name,
    compressed_label,
    compressed_name,
)
from tfcompress.recipe.techniques import quantization_callback, techniques
from tfcompress.recipe.training import check_fit


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Args:
        folder: Everything is in here.
        artifacts: The exported files, by their label in the report.
        report: The comparison of those files.
        rounds: What each round of an iterative recipe made. Defaults to none.
    """

    folder: Path
    artifacts: dict[str, Artifact]
    report: Report
    rounds: tuple[RoundResult, ...] = ()

    @property
    def kept(self) -> Artifact | None:
        """The file of the last round within the budget; `None` if there is none."""
        found = kept_round(self.rounds)
        return None if found is None else self.artifacts[_round_label(found, self.rounds)]

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def __str__(self) -> str:
        lines = [str(self.report), ""]
        for result in self.rounds:
            lines += textwrap.wrap(f"Round {result.number}: {result}", 100, subsequent_indent="  ")
        if self.rounds:
            lines += [_outcome(self.rounds), ""]
        return "\n".join(
            [*lines, f"Everything is in {self.folder}; open {self.folder}/report.html"]
        )


def run(
    recipe: str | Path | Recipe | Mapping[str, Any],
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> RunResult:
    """Do what a recipe says, from training to the comparison with the float baseline.

    The run folder holds the Keras models (`models/`), the `.tflite` files with their JSON sidecars
    (`artifacts/`), `report.html`, `report.json`, the plan, the recipe with its defaults written
    out, library versions and the record of finished stages. Files appear under their names only
    when they are complete, so a run that was killed at any moment can be resumed.

    Args:
        recipe: Path of a YAML file, a `Recipe`, or a mapping of its sections.
        output: The run folder. Defaults to `runs/<name of the recipe>`.
        resume: Go on with the run in the folder: finished stages are kept, a training goes on after
            its last finished epoch. Where there is no run yet, it starts one.
        overwrite: Replace the run in the folder.
        verbose: Whether progress is shown.

    Returns:
        The report, the artifacts and the folder.

    Raises:
        RecipeError: If the recipe is not valid.
        FileNotFoundError: If the recipe, the data or the model file does not exist.
        FileExistsError: If the folder holds a run, or anything else, and neither `resume` nor
            `overwrite` was asked for.
        ValueError: If a name in the recipe is unknown, or the run to resume had another recipe.
        PermissionError: If the folder cannot be written to.

    Example:

    ```python
    result = tfc.run("configs/digits_prune_int8.yaml", output="runs/first")
    result.report.to_frame()
    ```
    """
    recipe = Recipe.load(recipe)
    check_names(recipe)
    folder = RunFolder(output or Path("runs") / recipe.name, recipe, resume, overwrite)
    job = Job(recipe, folder, verbose=(1 if sys.stdout.isatty() else 2) if verbose else 0)
    atomic_write_text(folder.path / "recipe.yaml", recipe.to_yaml())
    facts = {"seed": recipe.seed, "backend": keras.config.backend(), **environment()}
    atomic_write_text(folder.path / "environment.json", json.dumps(facts, indent=2) + "\n")

    if recipe.iterative is not None:
        check_samples(recipe, job.data)
    steps = stages(recipe)
    for number, stage in enumerate(steps, start=1):
        done = folder.result(stage.name) is not None
        note = "done already" if done else stage.needless(job)
        if verbose:
            _announce(number, len(steps) + 1, stage.title, note)
        if not note:
            # Seeded stage by stage, so that a resumed run draws what an uninterrupted one draws.
            keras.utils.set_random_seed(recipe.seed + number)
            folder.finish(stage.name, stage.run(job))
            folder.remove_backup(stage.name)
    if verbose:
        _announce(len(steps) + 1, len(steps) + 1, "compare")
    return _compare(job)


def check_names(recipe: Recipe) -> None:
    """Check everything that the recipe only names, so that no error waits until training is over.

    Args:
        recipe: The job.

    Raises:
        ValueError: If a model, optimizer, loss, metric, schedule or scheme is unknown.
        FileNotFoundError: If the model file does not exist.
    """
    check_model(recipe.model)
    for section in (
        recipe.train,
        recipe.remove_layers,
        recipe.shrink,
        recipe.prune,
        recipe.quantize,
    ):
        if section is not None:
            check_fit(section)
    techniques(recipe)
    if recipe.quantize is not None:
        quantization_callback(recipe.quantize)


def _announce(number: int, count: int, title: str, note: str = "") -> None:
    from rich.console import Console

    note = f" [dim]({note})[/dim]" if note else ""
    Console().print(f"[bold]\\[{number}/{count}] {title}[/bold]{note}", highlight=False)


def _compare(job: Job) -> RunResult:
    names = [(baseline_name(s), baseline_label(s)) for s in job.recipe.export.baselines]
    if (name := compressed_name(job.recipe)) is not None:
        names.append((name, compressed_label(job.recipe)))
    rounds = tuple(round_results(job.folder))
    names += [(result.name, _round_label(result, rounds)) for result in rounds]
    artifacts = {title: Artifact.load(job.folder.artifact(name)) for name, title in names}
    facts = {f"round {result.number}": str(result) for result in rounds}
    report = compare(
        artifacts,
        job.data,
        latency=job.recipe.compare.latency,
        threads=job.recipe.compare.threads,
        metadata={**facts, "outcome": _outcome(rounds)} if rounds else None,
    )
    report.to_html(job.folder.path / "report.html")
    report.to_json(job.folder.path / "report.json")
    return RunResult(job.folder.path, artifacts, report, rounds)


def _round_label(result: RoundResult, results: Sequence[RoundResult]) -> str:
    kept = ", kept" if result == kept_round(results) else ""
    return f"round {result.number}: {result.removed:.0%}{kept}"


def _outcome(results: Sequence[RoundResult]) -> str:
    kept, last = kept_round(results), results[-1]
    why = last.ends or f"round {last.number} was the last of the recipe"
    if kept is None:
        return f"No round is kept: {why}. Prune less, in more rounds, or train longer."
    return f"Round {kept.number} is kept: {why}."

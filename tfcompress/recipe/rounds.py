"""Rounds of prune → fine-tune → quantize → measure, until a target is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfcompress.datasets import Dataset
from tfcompress.evaluation import LiteRTModel
from tfcompress.evaluation.score import Score
from tfcompress.evaluation.trial_samples import TrialSamples
from tfcompress.export import Artifact
from tfcompress.recipe.job import FLOAT, Job, Stage
from tfcompress.recipe.run_folder import RunFolder
from tfcompress.recipe.schema import Recipe
from tfcompress.recipe.stages import export_model, prune_stage, quantize_stage
from tfcompress.recipe.structure_stages import shrink_stage


@dataclass(frozen=True)
class RoundResult:
    """What one round made.

    Attributes:
        number: From 1.
        removed: Share of the weights, or of what `shrink` is about, that was to go by now.
        parameters: Weights of the file that are not zero.
        bytes: Size of the file.
        gzip_bytes: Size of the file after gzip.
        metric: `"accuracy"` or `"mse"`, on the validation samples.
        value: The metric of the file.
        drop: How much worse it is than the float model.
        kept: Whether the drop is within the budget.
        ends: Why no round follows; empty if one does.
    """

    number: int
    removed: float
    parameters: int
    bytes: int
    gzip_bytes: int
    metric: str
    value: float
    drop: float
    kept: bool
    ends: str

    @property
    def name(self) -> str:
        """Name of the round's file, without its suffix."""
        return file_name(self.number)

    def __str__(self) -> str:
        share = self.metric == "accuracy"
        value = f"{self.value:.2%}" if share else f"{self.value:.4g}"
        change = f"{-100 * self.drop:+.2f} points" if share else f"{self.drop:+.2g}"
        verdict = "within the budget" if self.kept else "over the budget"
        return (
            f"{self.removed:.1%} removed, {self.parameters:,} weights not zero, {self.bytes:,} "
            f"bytes, {self.gzip_bytes:,} gzipped, {self.metric} {value} ({change}), {verdict}"
        )


def file_name(number: int) -> str:
    """Return the name of a round's file, without its suffix."""
    return f"round{number}"


def share_left(recipe: Recipe, number: int) -> float:
    """Return what is to be left after a round, each of which takes the same share.

    Args:
        recipe: A recipe with an `iterative` section.
        number: The round, from 1.

    Raises:
        ValueError: If the recipe has no rounds, or nothing that they approach.
    """
    final = None
    if recipe.shrink is not None:
        final = recipe.shrink.share_left
    elif recipe.prune is not None and isinstance(recipe.prune.sparsity, float):
        final = 1.0 - recipe.prune.sparsity
    if recipe.iterative is None or final is None:
        raise ValueError("Rounds need an `iterative` section, and one that says what is removed.")
    return (
        final if number == recipe.iterative.rounds else final ** (number / recipe.iterative.rounds)
    )


def round_stages(recipe: Recipe, source: str = FLOAT) -> list[Stage]:
    """Return the stages of all rounds that there may be.

    Those of a round have nothing to do when an earlier one ended the rounds.

    Args:
        recipe: A recipe with an `iterative` section.
        source: Name of the model that the first round starts from.

    Raises:
        ValueError: If the recipe has no rounds.
    """
    found: list[Stage] = []
    for number in range(1, recipe.iterative.rounds + 1 if recipe.iterative else 1):
        name, smaller = file_name(number), f"{file_name(number)}_pruned"
        last = smaller
        steps = [_removal(recipe, number, source, smaller)]
        if recipe.quantize is not None:
            last = f"{name}_quantized"
            steps.append(quantize_stage(recipe.quantize, smaller, last, f"{name} quantize"))
        steps.append(Stage(f"{name} measure", f"{name} measure", _measure(number, last)))
        found += [Stage(s.name, s.title, s.run, _ended_before(number)) for s in steps]
        source = smaller
    return found


def _removal(recipe: Recipe, number: int, source: str, target: str) -> Stage:
    left = share_left(recipe, number)
    if recipe.shrink is not None:
        # A share of what the round before has left.
        before = share_left(recipe, number - 1) if number > 1 else 1.0
        section = recipe.shrink.leaving(left / before)
        return shrink_stage(section, source, target, f"{file_name(number)} shrink")
    if recipe.prune is None:
        raise ValueError("Rounds need a `prune` or a `shrink` section.")
    pruned = recipe.prune.model_copy(update={"sparsity": 1.0 - left})
    return prune_stage(pruned, source, target, f"{file_name(number)} prune")


def _ended_before(number: int) -> Callable[[Job], str]:
    def why(job: Job) -> str:
        return next((r.ends for r in round_results(job.folder) if r.number < number and r.ends), "")

    return why


def round_results(folder: RunFolder) -> list[RoundResult]:
    """Return what the finished rounds made, in order."""
    found: list[RoundResult] = []
    while (facts := folder.result(f"{file_name(len(found) + 1)} measure")) is not None:
        found.append(RoundResult(**facts))
    return found


def kept_round(results: Sequence[RoundResult]) -> RoundResult | None:
    """Return the last round within the budget, `None` if the first one was over it."""
    kept = [result for result in results if result.kept]
    return kept[-1] if kept else None


def check_samples(recipe: Recipe, data: Dataset) -> None:
    """Check, before anything is trained, that there are samples to judge the rounds on.

    Raises:
        ValueError: If there is a `max_drop`, but no validation split.
    """
    if recipe.iterative is None or recipe.iterative.max_drop is None or data.validation is not None:
        return
    raise ValueError(
        "`iterative.max_drop` is judged on validation samples, since the test samples are for the "
        f"final comparison, but {data.name!r} has none. Set `data.validation`, to 0.2 for instance."
    )


def _measure(number: int, source: str) -> Callable[[Job], dict[str, Any]]:
    def run(job: Job) -> dict[str, Any]:
        artifact = export_model(job, source, file_name(number))
        samples, score = job.judge
        outputs = list(LiteRTModel(artifact).run(_structured(samples)).values())
        value = score.value(outputs)
        return asdict(_result(job.recipe, number, artifact, score, value))

    return run


def _structured(samples: TrialSamples) -> dict[str, np.ndarray] | np.ndarray:
    inputs = samples.inputs
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


def _result(
    recipe: Recipe, number: int, artifact: Artifact, score: Score, value: float
) -> RoundResult:
    section = recipe.iterative
    if section is None:
        raise ValueError("Rounds need an `iterative` section.")
    drop = score.drop(value)
    sizes = {
        "parameters": artifact.nonzeros,
        "bytes": artifact.bytes,
        "gzip_bytes": artifact.gzip_bytes,
    }
    # One sample of a thousand is 0.001: equality must not hang on the last bit.
    kept = section.max_drop is None or drop <= section.max_drop + 1e-9
    targets = section.targets
    ends = ""
    if not kept:
        ends = f"round {number} is over the budget"
    elif targets and all(sizes[name] <= limit for name, limit in targets.items()):
        ends = f"round {number} met the target"
    return RoundResult(
        number=number,
        removed=1.0 - share_left(recipe, number),
        metric=score.name,
        value=value,
        drop=drop,
        kept=kept,
        ends=ends,
        **sizes,
    )

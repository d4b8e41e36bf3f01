"""What the stages of a run share: the job, and what a stage is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from tfcompress import datasets
from tfcompress.datasets import Dataset
from tfcompress.datasets.arrays import take
from tfcompress.evaluation.score import Score
from tfcompress.evaluation.trial_samples import TrialSamples, trial_samples
from tfcompress.files import atomic_path
from tfcompress.graph.model_inputs import sample_specs
from tfcompress.recipe.model_source import read_model
from tfcompress.recipe.run_folder import RunFolder
from tfcompress.recipe.schema import QuantizeSection, Recipe
from tfcompress.search.predictor import Predictor

# Name of the trained float model in the run folder.
FLOAT = "float"


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

    @cached_property
    def judge(self) -> tuple[TrialSamples, Score]:
        """Validation samples (training samples where there are none), and the float model's score.

        What is chosen by these leaves the test samples for the final comparison.
        """
        model = self.read(FLOAT)
        samples = trial_samples(self.data, sample_specs(model), limit=None)
        return samples, Score(Predictor(model, samples)(), samples.labels)

    def read(self, name: str) -> keras.Model:
        """Read a model from the run folder."""
        return read_model(self.folder.model(name))

    def save(self, model: keras.Model, name: str) -> None:
        """Write a model into the run folder; it appears when it is complete."""
        with atomic_path(self.folder.model(name)) as temporary:
            model.save(temporary)


def _always_needed(job: Job) -> str:
    return ""


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Args:
        name: Its name in the record of the run.
        title: What is shown while it runs.
        run: Does it, and returns JSON-ready facts for the record.
        needless: Says why it has nothing to do, judged when its turn comes; empty if it has.
    """

    name: str
    title: str
    run: Callable[[Job], dict[str, Any]]
    needless: Callable[[Job], str] = _always_needed

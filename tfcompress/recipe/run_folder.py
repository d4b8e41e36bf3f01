"""The folder of one run: what is in it, which stages are done, and when it may be written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tfcompress.files import atomic_write_text, prepare_destination
from tfcompress.recipe.schema import Recipe

STATE = "state.json"
STATE_VERSION = 1
# Everything else that a run writes; overwriting removes these, and nothing that others put there.
CONTENTS = (
    "artifacts",
    "backup",
    "environment.json",
    "models",
    "plan.txt",
    "plan.yaml",
    "recipe.yaml",
    "report.html",
    "report.json",
)


class RunFolder:
    """A run's files and the record of its finished stages.

    The record is written after a stage's files, each of them renamed into place when complete: a
    stage that is recorded is done, whatever happened afterwards.

    Args:
        path: The folder.
        recipe: The job.
        resume: Go on with the run that is in the folder.
        overwrite: Remove the run that is in the folder first.

    Raises:
        FileExistsError: If the folder holds a run and neither `resume` nor `overwrite` is given,
            or holds something that is not a run.
        ValueError: If the run to resume was started with another recipe, or both are given.
        NotADirectoryError: If `path` is a file.
        PermissionError: If the folder cannot be written to.
    """

    def __init__(
        self, path: str | Path, recipe: Recipe, resume: bool = False, overwrite: bool = False
    ):
        self.path = Path(path).expanduser()
        if resume and overwrite:
            raise ValueError("A run is either resumed or overwritten. Received: both")
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"The output must be a folder. Received the file: {self.path}")
        prepare_destination(self.path / STATE)
        self._claim(recipe, resume, overwrite)

    def _claim(self, recipe: Recipe, resume: bool, overwrite: bool) -> None:
        state_file = self.path / STATE
        if state_file.is_file():
            if resume:
                self._continue(state_file, recipe)
                return
            if not overwrite:
                raise FileExistsError(
                    f"The folder holds a run already: {self.path}. Continue it with --resume "
                    "(resume=True), replace it with --overwrite (overwrite=True), or choose "
                    "another --output (output=...)."
                )
        elif any(not _is_leftover(entry) for entry in self.path.iterdir()):
            raise FileExistsError(
                f"The folder is not empty and holds no run: {self.path}. "
                "Choose another --output (output=...)."
            )
        self._stages: dict[str, dict[str, Any]] = {}
        self._recipe = recipe
        # The new record first: killed after it, the old files belong to no stage and are replaced.
        self._write()
        self._remove_leftovers()
        for name in CONTENTS if overwrite else ():
            _remove(self.path / name)

    def _continue(self, state_file: Path, recipe: Recipe) -> None:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"{state_file} was written by another version of tfcompress. "
                f"Received: version={state.get('version')!r}, this is version {STATE_VERSION}"
            )
        mine, theirs = recipe.model_dump(mode="json"), state["recipe"]
        if mine != theirs:
            changed = [key for key in mine if mine[key] != theirs.get(key)]
            raise ValueError(
                f"The run in {self.path} was started with another recipe; it differs in: "
                f"{', '.join(changed)}. Resume with the recipe.yaml in that folder, or choose "
                "another --output (output=...)."
            )
        self._stages = state["stages"]
        self._recipe = recipe
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        # What a killed process was writing; the names are those of tfcompress.files.
        for entry in [*self.path.rglob(".*.part"), *self.path.rglob(".*.part-*")]:
            _remove(entry)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The results of the finished stages, by name, in the order in which they finished."""
        return dict(self._stages)

    def result(self, stage: str) -> dict[str, Any] | None:
        """Return what a finished stage recorded, or `None` if it is not finished."""
        return self._stages.get(stage)

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Record a stage as done.

        Args:
            stage: Its name.
            result: JSON-ready facts about it.
        """
        self._stages[stage] = result
        self._write()

    def _write(self) -> None:
        state = {
            "version": STATE_VERSION,
            "recipe": self._recipe.model_dump(mode="json"),
            "stages": self._stages,
        }
        atomic_write_text(self.path / STATE, json.dumps(state, indent=2) + "\n")

    def model(self, name: str) -> Path:
        """Return the path of a Keras model in the folder."""
        return self.path / "models" / f"{name}.keras"

    def artifact(self, name: str) -> Path:
        """Return the path of a `.tflite` file in the folder."""
        return self.path / "artifacts" / f"{name}.tflite"

    def backup(self, stage: str) -> Path:
        """Return the folder for the backup of a training stage."""
        return self.path / "backup" / stage

    def remove_backup(self, stage: str) -> None:
        """Remove the backup of a stage, once the stage is recorded as done."""
        _remove(self.backup(stage))
        if (folder := self.path / "backup").is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _is_leftover(entry: Path) -> bool:
    return entry.name.startswith(".") and ".part" in entry.name

"""When a run folder may be written to, and what survives in it."""

import json

import pytest

from tfcompress.recipe import Recipe
from tfcompress.recipe.run_folder import RunFolder


@pytest.fixture
def recipe():
    return Recipe.load(
        {
            "version": 1,
            "name": "quick",
            "data": {"source": "digits"},
            "model": {"architecture": "digits_cnn"},
            "train": {"epochs": 1},
        }
    )


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finished_stages_are_there_after_resuming(tmp_path, recipe):
    RunFolder(tmp_path / "run", recipe).finish("train", {"seconds": 3})
    again = RunFolder(tmp_path / "run", recipe, resume=True)
    assert again.stages == {"train": {"seconds": 3}}
    assert again.result("prune") is None


def test_a_run_is_never_overwritten_silently(tmp_path, recipe):
    folder = RunFolder(tmp_path / "run", recipe)
    folder.finish("train", {})
    before = snapshot(folder.path)
    with pytest.raises(FileExistsError, match=r"--resume .* --overwrite .* another --output"):
        RunFolder(tmp_path / "run", recipe)
    assert snapshot(folder.path) == before


def test_overwriting_removes_the_run_and_nothing_else(tmp_path, recipe):
    folder = RunFolder(tmp_path / "run", recipe)
    folder.finish("train", {})
    folder.model("float").parent.mkdir()
    folder.model("float").write_bytes(b"model")
    (folder.path / "notes.txt").write_text("mine")
    again = RunFolder(tmp_path / "run", recipe, overwrite=True)
    assert again.stages == {}
    assert sorted(p.name for p in folder.path.iterdir()) == ["notes.txt", "state.json"]


def test_a_folder_with_other_files_is_left_alone(tmp_path, recipe):
    (tmp_path / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty and holds no run"):
            RunFolder(tmp_path, recipe, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_and_a_resume_of_nothing_start_fresh(tmp_path, recipe):
    assert RunFolder(tmp_path, recipe, resume=True).stages == {}
    assert (tmp_path / "state.json").is_file()


def test_what_a_killed_writer_left_is_removed_on_resuming(tmp_path, recipe):
    RunFolder(tmp_path, recipe)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".float.keras.part-x1").mkdir()
    (tmp_path / "models" / ".float.keras.part-x1" / "float.keras").write_bytes(b"half")
    (tmp_path / ".report.json.abc.part").write_bytes(b"half")
    RunFolder(tmp_path, recipe, resume=True)
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]


def test_killed_before_the_first_record(tmp_path, recipe):
    (tmp_path / ".state.json.abc.part").write_bytes(b"{")
    RunFolder(tmp_path, recipe, resume=True)
    assert json.loads((tmp_path / "state.json").read_text())["stages"] == {}


def test_resuming_with_another_recipe_names_what_differs(tmp_path, recipe):
    RunFolder(tmp_path, recipe)
    other = recipe.model_copy(update={"seed": 3})
    with pytest.raises(ValueError, match=r"another recipe; it differs in: seed\. Resume with"):
        RunFolder(tmp_path, other, resume=True)


def test_resume_and_overwrite_exclude_each_other(tmp_path, recipe):
    with pytest.raises(ValueError, match="either resumed or overwritten"):
        RunFolder(tmp_path, recipe, resume=True, overwrite=True)


def test_a_file_in_the_place_of_the_folder(tmp_path, recipe):
    (tmp_path / "run").write_text("text")
    with pytest.raises(NotADirectoryError, match=r"must be a folder\. Received the file"):
        RunFolder(tmp_path / "run", recipe)


def test_a_folder_that_cannot_be_made(recipe):
    with pytest.raises(PermissionError, match="cannot be written to"):
        RunFolder("/proc/nowhere/run", recipe)


def test_backups_go_when_their_stage_is_done(tmp_path, recipe):
    folder = RunFolder(tmp_path, recipe)
    for stage in ("train", "prune"):
        folder.backup(stage).mkdir(parents=True)
        (folder.backup(stage) / "epoch-00001.weights.h5").write_bytes(b"w")
    folder.remove_backup("train")
    assert not folder.backup("train").exists()
    assert folder.backup("prune").exists()
    folder.remove_backup("prune")
    assert not (tmp_path / "backup").exists()

"""The script that the README changes runs, and changes as little as it says."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def diff_lines():
    (block,) = re.findall(r"```diff\n(.*?)```", README.read_text(), re.DOTALL)
    return block.splitlines()


def test_at_most_eight_lines_change():
    changed = [line for line in diff_lines() if line[:1] in "+-" and line.strip()]
    assert 0 < len(changed) <= 8


def test_the_script_without_the_changes_is_plain_keras():
    before = [line[1:] for line in diff_lines() if not line.startswith("+")]
    assert "tfcompress" not in "\n".join(before)
    compile("\n".join(before), "before", "exec")


@pytest.mark.slow
def test_the_changed_script_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = "\n".join(line[1:] for line in diff_lines() if not line.startswith("-"))
    names = {"__name__": "script"}
    exec(compile(script, "after", "exec"), names)
    artifact, report = names["artifact"], names["report"]
    assert (tmp_path / "small.tflite").stat().st_size == artifact.bytes
    assert "</html>" in (tmp_path / "report.html").read_text()
    assert artifact.float_islands == []
    assert 1 - artifact.nonzeros / artifact.parameters == pytest.approx(0.8, abs=0.02)
    figures = report.entries[1].figures
    assert figures["accuracy"] > 0.93
    assert figures["agreement"] > 0.93

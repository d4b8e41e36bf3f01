"""The scripts whose lines the benchmark counts."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def user_code(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import user_code

    yield user_code
    for name in ("user_code", "record"):
        sys.modules.pop(name)


def test_counts_are_those_of_the_scripts(user_code):
    results = json.loads(user_code.RESULT.read_text())["results"]
    for (job, library), path in user_code.scripts().items():
        counted = {key: results[job][library][key] for key in ("lines", "verification")}
        assert counted == user_code.count(path), "run: python benchmarks/user_code.py"


def test_every_library_has_a_script_or_a_reason(user_code):
    found = user_code.scripts()
    for job in {job for job, _ in found}:
        for library in ("tfcompress", "tfmot", "converter", "aeq"):
            known = {(job, library), (job, "peers")} & {*found, *user_code.MISSING}
            assert known, (job, library)


def test_counting(user_code, tmp_path):
    path = tmp_path / "job_library.py"
    path.write_text(
        '"""What it does."""\n\nimport numpy as np\nimport other\n\n\ndef compress(model, path):\n'
        "    # How.\n    other.do(\n        model\n    )\n\n"
        "    # Verified:\n    other.check(path)\n"
    )
    assert user_code.count(path) == {"lines": 5, "verification": 1}


@pytest.mark.slow
def test_the_scripts_of_tfcompress_do_their_jobs(user_code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {job: path for (job, own), path in user_code.scripts().items() if own == "tfcompress"}
    # The report is about the file of the first.
    assert next(iter(paths)) == "post_training"
    user_code.run_jobs(list(paths.values()), tmp_path, "tfcompress")
    for job, path in paths.items():
        user_code.judged(job, path.stem, tmp_path)

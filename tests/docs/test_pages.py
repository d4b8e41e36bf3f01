"""Pages that are written from code and results are what these say now."""

import json
import runpy
from pathlib import Path

import pytest

from tfcompress.cli.main import COMMANDS
from tfcompress.recipe import Recipe

ROOT = Path(__file__).parents[2]


def test_recipe_reference_is_that_of_the_schema():
    script = runpy.run_path(str(ROOT / "docs" / "recipe_reference.py"))
    assert (ROOT / "docs" / "guide" / "recipes.md").read_text() == script["page"](), (
        "run: python docs/recipe_reference.py"
    )


def test_recipe_reference_has_every_key_with_its_meaning():
    text = (ROOT / "docs" / "guide" / "recipes.md").read_text()
    for name in Recipe.model_fields:
        assert f"| `{name}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_result_is_on_the_page_of_benchmarks():
    page = runpy.run_path(str(ROOT / "benchmarks" / "page.py"))["page"]()
    folder = ROOT / "benchmarks" / "results"
    assert page.count("\n## ") == len(list(folder.glob("*.json"))) > 2
    found = json.loads((folder / "resnet8_cifar10.json").read_text())["results"]["tfmot_pqat"]
    assert f"| tfmot_pqat | {found['tflite_accuracy']} |" in page
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page, "run: python benchmarks/page.py"


def test_every_command_is_on_its_page():
    text = (ROOT / "docs" / "guide" / "command_line.md").read_text()
    for name in COMMANDS:
        assert f"| `{name}" in text


def test_every_page_is_in_the_navigation():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.safe_load(text)["nav"]

    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages(value)

    listed = set(pages(nav))
    folder = ROOT / "docs"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.md")} <= listed

"""The page of supported layers says what conversion really gives; here for one of its tables."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CATEGORY = "Activation layers"


@pytest.fixture
def support_table(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import support_table

    yield support_table
    for name in ("support_table", "support_blocks"):
        sys.modules.pop(name)


def test_the_page_has_every_block(support_table):
    page = (DOCS / "support.md").read_text()
    for category, blocks in support_table.support_blocks.CATEGORIES.items():
        table = page.split(f"## {category}\n")[1].split("\n## ")[0]
        rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[3:] if line]
        assert rows == list(blocks)


def test_a_table_comes_out_as_on_the_page(support_table):
    fresh = support_table.section(CATEGORY, ["int8"])[4:-1]
    page = (DOCS / "support.md").read_text().split(f"## {CATEGORY}\n")[1].split("\n## ")[0]
    written = [line for line in page.splitlines()[3:] if line]
    assert len(fresh) == len(written) > 0
    for new, old in zip(fresh, written, strict=True):
        name, cell = new.strip("| ").split(" | ")
        old_name, old_cell = old.strip("| ").split(" | ")[:2]
        assert name == old_name
        assert float(cell.split(" / ")[0]) <= float(old_cell.split(" / ")[0]) + 1.0

"""Reading YAML safely, with lines."""

import pytest

from tfcompress.recipe import Recipe, RecipeError
from tfcompress.recipe.document import parse_document, read_document


def test_lines_of_keys_and_items():
    document = parse_document("a:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    assert document.values == {"a": {"b": 1, "c": ["x", "y"]}}
    assert document.where(("a", "c", 1)) == "f.yaml, line 5"
    assert document.where(("a", "missing")) == "f.yaml, line 1"
    assert document.where(()) == "f.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.5E+2", 150.0), ("-2e4", -2e4), ("1e", "1e"), ("e3", "e3"), ("12", 12)],
)
def test_numbers_with_exponents(text, value):
    got = parse_document(f"x: {text}").values["x"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!python/object:keras.Model {}",
        "!!python/tuple [1, 2]",
        "!custom 3",
    ],
)
def test_tags_that_build_objects_are_refused(tag):
    with pytest.raises(RecipeError, match=r"f.yaml, line 2: the tag !\S+ is refused") as caught:
        parse_document(f"a: 1\nb: {tag}\n", "f.yaml")
    assert tag.split()[0].strip("!") in str(caught.value)


BOMB = """
a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
e: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: `a` is given twice; it was set on line 1"),
        ("- 1\n- 2\n", "a recipe is a mapping of sections .* Received: list"),
        ("", "a recipe is a mapping of sections .* Received: NoneType"),
        ("a: [1,\n", "line 2: not valid YAML"),
        ("a: 1\n\tb: 2\n", "line 2: not valid YAML"),
        ("1: 2\n", "line 1: a key must be a text"),
        ("[a]: 2\n", "line 1: a key must be a text"),
        ("a: &x [*x]\n", "nested too deeply"),
        ("[" * 3000, "nested too deeply"),
        (BOMB, "expands to more than 10,000 values"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: 2020-99-99\n", "not valid YAML"),
    ],
)
def test_text_that_is_no_recipe(text, said):
    with pytest.raises(RecipeError, match=said):
        parse_document(text)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such recipe file. Received: .*nowhere.yaml"):
        Recipe.load(tmp_path / "nowhere.yaml")


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xff\xfe\x00TFL3")
    with pytest.raises(RecipeError, match="UTF-8"):
        read_document(path)


def test_a_huge_file(tmp_path):
    path = tmp_path / "huge.yaml"
    path.write_text("#" * 1_000_001)
    with pytest.raises(RecipeError, match="at most 1,000,000 bytes"):
        read_document(path)

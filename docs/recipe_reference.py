"""Write `docs/guide/recipes.md` from the schema of recipes: python docs/recipe_reference.py."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pydantic

from tfcompress.recipe import Recipe

PAGE = Path(__file__).parent / "guide" / "recipes.md"
_HEAD = """# Recipes

<!-- Written by docs/recipe_reference.py from the schema; do not edit. -->

A recipe is a YAML file that says everything about a compression job. It is strict: an unknown key
or a wrong type is an error that names the file, the line and the nearest known key. Runs leave the
recipe with every default written out beside their results, and can be resumed after they were
killed.

```
tfcompress run recipe.yaml --output=runs/first
tfcompress run recipe.yaml --output=runs/first --resume
```

```python
result = tfc.run("recipe.yaml")
result.report
```

The smallest useful one; `configs/` holds more that run as they are:

```yaml
{example}```
"""
_EXAMPLE = """version: 1
name: quick
data: {source: digits}
model: {architecture: digits_cnn}
train: {epochs: 3}
prune: {sparsity: 0.8}
quantize: {epochs: 1}
"""


def page() -> str:
    """Return the page; every section of the schema is in it."""
    Recipe.from_yaml(_EXAMPLE)
    lines = [_HEAD.replace("{example}", _EXAMPLE)]
    for title, section in [("A recipe", Recipe), *_sections(Recipe, "")]:
        lines += [f"## {title}", "", *_section(section), ""]
    return "\n".join(lines)


def _sections(
    model: type[pydantic.BaseModel], prefix: str
) -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    for name, field in model.model_fields.items():
        for kind in _models(field.annotation):
            yield f"`{prefix}{name}`", kind
            yield from _sections(kind, f"{prefix}{name}.")


def _models(annotation: object) -> list[type[pydantic.BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _models(part)]


def _section(model: type[pydantic.BaseModel]) -> list[str]:
    meanings = _meanings(model)
    lines = [_summary(model), "", "| key | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field.default)
        kind = _type(field.annotation).replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {default} | {meanings.get(name, '')} |")
    return lines


def _summary(model: type[pydantic.BaseModel]) -> str:
    text = inspect.getdoc(model) or ""
    return _plain(" ".join(text.partition("\n\nArgs:")[0].split()))


def _meanings(model: type[pydantic.BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a section and of the sections it builds on say of each key."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        text = inspect.getdoc(kind) if "__doc__" in vars(kind) and kind.__doc__ else ""
        _, _, rest = (text or "").partition("Args:\n")
        block = re.split(r"\n\n(?=\S)", rest)[0]
        for entry in re.split(r"\n(?=    \S)", "\n" + block):
            name, colon, meaning = entry.strip().partition(":")
            if colon and name.isidentifier():
                found[name] = _plain(" ".join(meaning.split())).replace("|", "\\|")
    return found


def _plain(text: str) -> str:
    """Point to the sections of this page instead of the classes of the package."""
    text = re.sub(r"See `\w+Section`(; |\.)", lambda m: "" if m[1] == "; " else "See below.", text)
    return text.replace("`None`", "`null`")


def _type(annotation: object) -> str:
    if annotation is type(None):
        return "null"
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "mapping"
    if inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel):
        return "section"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, "any") if isinstance(annotation, type) else "any"


def _default(value: object) -> str:
    if isinstance(value, pydantic.BaseModel):
        return "its defaults"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != {} else "`{}`"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

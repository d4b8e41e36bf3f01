"""Turning validation errors into messages that name the line, the key and what is allowed."""

from __future__ import annotations

import difflib
import re
import types
import typing
from typing import Any

import pydantic

from tfcompress.recipe.document import Document, Location, RecipeError


def recipe_error(
    error: pydantic.ValidationError, document: Document, root: type[pydantic.BaseModel]
) -> RecipeError:
    """Describe everything that is wrong with a recipe.

    Args:
        error: What pydantic found.
        document: The values that were validated, with their lines.
        root: The model that validated them.

    Returns:
        An exception whose message holds one line for each problem.
    """
    problems: dict[str, None] = {}
    # The alternatives of a union each report an error of their own: gather them by the key.
    by_key: dict[Location, list[Any]] = {}
    for item in error.errors(include_url=False):
        by_key.setdefault(_key_of(item["loc"], document.values), []).append(item)
    misspelt = {
        (*location[:-1], _nearest(location, root))
        for location, items in by_key.items()
        if items[0]["type"] == "extra_forbidden"
    }
    for location, items in by_key.items():
        if items[0]["type"] == "missing" and location in misspelt:
            continue
        problems[f"{document.where(location)}: {_describe(location, items, root)}"] = None
    return RecipeError("\n".join(problems))


def _key_of(location: Location, values: Any) -> Location:
    """Return the part of a pydantic location that exists in the document.

    Pydantic appends the name of the union's alternative; a missing or unknown key is kept.
    """
    kept: list[str | int] = []
    for part in location:
        inside = (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        )
        if inside:
            values = values[part]
            kept.append(part)
            continue
        if isinstance(values, dict) and not _is_marker(part):
            kept.append(part)
        break
    return tuple(kept)


def _is_marker(part: str | int) -> bool:
    """Tell pydantic's own markers, such as `constrained-int` or `list[str]`, from a key."""
    return not isinstance(part, str) or not part.isidentifier()


def _describe(location: Location, items: list[Any], root: type[pydantic.BaseModel]) -> str:
    first = items[0]
    name = ".".join(str(part) for part in location)
    name = re.sub(r"\.(\d+)", r"[\1]", name)
    if first["type"] == "extra_forbidden":
        return _unknown_key(location, root)
    if first["type"] == "missing":
        return f"`{name}` is required."
    allowed = " or ".join(dict.fromkeys(_allowed(item) for item in items))
    # A validator of a whole section says what the section needs; its input is the section itself.
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"`{name}` needs {allowed}." if name else f"the recipe needs {allowed}."
    return f"`{name}` must be {allowed}. Received: {first['input']!r}"


def _allowed(item: Any) -> str:
    context = item.get("ctx", {})
    simple = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping of settings",
        "finite_number": "a finite number",
    }
    kind = item["type"]
    if kind in simple:
        return simple[kind]
    if kind == "literal_error":
        return context["expected"]
    if kind == "value_error":
        return str(context["error"])
    bounds = {
        "greater_than": ("above", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("below", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in bounds:
        word, key = bounds[kind]
        return f"{word} {context[key]}"
    return f"valid ({item['msg']})"


def _unknown_key(location: Location, root: type[pydantic.BaseModel]) -> str:
    key = str(location[-1])
    section = ".".join(str(part) for part in location[:-1])
    model = _model_at(location[:-1], root)
    known = list(model.model_fields)
    place = f"in `{section}`" if section else "at the top level"
    if near := _nearest(location, root):
        hint = f"did you mean `{near}`?"
    elif elsewhere := _sections_with(key, root, model):
        hint = f"it belongs in {elsewhere}."
    else:
        closest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        hint = f"the nearest known key is `{closest}`."
    return f"unknown key `{key}` {place}; {hint} Known keys: {', '.join(known)}."


def _nearest(location: Location, root: type[pydantic.BaseModel]) -> str:
    known = _model_at(location[:-1], root).model_fields
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    return near[0] if near else ""


def _sections_with(key: str, root: type[pydantic.BaseModel], here: type[pydantic.BaseModel]) -> str:
    found = []
    for name in root.model_fields:
        section = _section_type(root, name)
        if section is not None and section is not here and key in section.model_fields:
            found.append(f"`{name}`")
    return " or ".join(found)


def _model_at(location: Location, root: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
    model = root
    for part in location:
        model = _section_type(model, str(part)) or model
    return model


def _section_type(model: type[pydantic.BaseModel], name: str) -> type[pydantic.BaseModel] | None:
    if name not in model.model_fields:
        return None
    annotation = model.model_fields[name].annotation
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for kind in typing.get_args(annotation) if is_union else (annotation,):
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            return kind
    return None

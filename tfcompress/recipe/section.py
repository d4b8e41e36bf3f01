"""What all sections of a recipe are made of: the strict base class and the types of values."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Patterns = list[str] | None


def _moment(value: object) -> int | float:
    if type(value) is int and value >= 0:
        return value
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    raise ValueError("a step (a whole number) or a share of the training (from 0.0 to 1.0)")


Moment = Annotated[int | float, BeforeValidator(_moment)]


def plain_name(name: str) -> str:
    """Refuse what cannot be the name of a file or folder."""
    if not name or any(not (c.isalnum() or c in "._-") for c in name) or name.startswith("."):
        raise ValueError("a name of letters, digits, `.`, `_` and `-`: it names the run folder")
    return name


class Section(pydantic.BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


def given(section: Section, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those of some settings of a section that are not None, by their names."""
    return {name: value for name in names if (value := getattr(section, name)) is not None}


def check_one(section: Section, names: tuple[str, ...]) -> None:
    """Check that exactly one of some settings of a section is not None.

    Raises:
        ValueError: If there are none or several.
    """
    found = list(given(section, names))
    if len(found) != 1:
        raise ValueError(f"exactly one of {listed(names)}; given: {', '.join(found) or 'none'}")


def listed(names: tuple[str, ...]) -> str:
    """Return names of settings as a list in words, such as "`a`, `b` and `c`"."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"

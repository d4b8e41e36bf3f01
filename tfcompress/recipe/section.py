"""What all sections of a recipe are made of: the strict base class and the types of values."""

from __future__ import annotations

from typing import Annotated

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

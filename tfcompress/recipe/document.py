"""Reading YAML into plain values while remembering the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

Location = tuple[str | int, ...]

MAX_CHARACTERS = 1_000_000
MAX_NODES = 10_000


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the line and what is allowed."""


class _LineLoader(yaml.SafeLoader):
    """YAML's safe loader, which also reads `1e-3` as a number.

    PyYAML follows YAML 1.1, where a float needs a dot: `learning_rate: 1e-3` would be a text.
    """


_LineLoader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_LineLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class Document:
    """The values of a YAML mapping and where each of them stands.

    Args:
        values: The mapping as plain Python values.
        source: Name of the file for messages.
        lines: Line number, counted from 1, of every key and list item, by its location.
    """

    values: dict[str, Any]
    source: str
    lines: dict[Location, int] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """Return `"file.yaml, line 3"` for a location, or for the nearest one above it."""
        for length in range(len(location), 0, -1):
            if line := self.lines.get(location[:length]):
                return f"{self.source}, line {line}"
        return self.source


def read_document(path: str | PathLike[str]) -> Document:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        Its values with their lines.

    Raises:
        FileNotFoundError: If there is no such file.
        RecipeError: If the file is not UTF-8 text, or see `parse_document`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no such recipe file. Received: {path}")
    if path.stat().st_size > MAX_CHARACTERS:
        raise RecipeError(f"{path}: a recipe is at most {MAX_CHARACTERS:,} bytes of YAML.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: a recipe is UTF-8 text ({error}).") from error
    return parse_document(text, source=str(path))


def parse_document(text: str, source: str = "recipe") -> Document:
    """Parse YAML text with the safe loader.

    Args:
        text: YAML whose top level is a mapping.
        source: Name used in messages.

    Returns:
        Its values with their lines.

    Raises:
        RecipeError: If the text is not valid YAML, carries a tag that would build a Python object,
            repeats a key, is not a mapping, or expands to more than `MAX_NODES` values.
    """
    loader = None
    try:
        loader = _LineLoader(text)
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        if node is not None:
            _record_lines(node, (), lines, source)
        values = loader.construct_document(node) if node is not None else None
    except yaml.constructor.ConstructorError as error:
        raise RecipeError(_constructor_message(error, source)) from error
    except yaml.MarkedYAMLError as error:
        place = _at(error.problem_mark, source)
        raise RecipeError(f"{place}: not valid YAML ({error.problem}).") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{source}: not valid YAML ({error}).") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: the YAML is nested too deeply for a recipe.") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise RecipeError(
            f"{source}: a recipe is a mapping of sections such as `data:` and `model:`. "
            f"Received: {type(values).__name__}"
        )
    return Document(values, source, lines)


def _record_lines(
    node: yaml.Node, location: Location, lines: dict[Location, int], source: str
) -> None:
    # Aliases make one node appear many times: without a limit, a few lines expand to billions.
    if len(lines) > MAX_NODES:
        raise RecipeError(f"{source}: the YAML expands to more than {MAX_NODES:,} values.")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str"):
                raise RecipeError(f"{_at(key.start_mark, source)}: a key must be a text.")
            here = (*location, key.value)
            if here in lines:
                raise RecipeError(
                    f"{_at(key.start_mark, source)}: `{key.value}` is given twice; "
                    f"it was set on line {lines[here]} already."
                )
            lines[here] = key.start_mark.line + 1
            _record_lines(value, here, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            here = (*location, index)
            lines[here] = item.start_mark.line + 1
            _record_lines(item, here, lines, source)


def _at(mark: yaml.Mark | None, source: str) -> str:
    return source if mark is None else f"{source}, line {mark.line + 1}"


def _constructor_message(error: yaml.constructor.ConstructorError, source: str) -> str:
    place = _at(error.problem_mark, source)
    if error.problem and "tag" in error.problem:
        tag = re.search(r"'([^']+)'", error.problem)
        name = tag.group(1).replace("tag:yaml.org,2002:", "!!") if tag else "of unknown kind"
        return (
            f"{place}: the tag {name} is refused. A recipe holds plain values only: "
            "text, numbers, true/false, lists and mappings. Remove the tag."
        )
    return f"{place}: {error.problem}."

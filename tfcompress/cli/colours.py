"""Colours for terminals, and for terminals only."""

from __future__ import annotations

import os
import re
from typing import TextIO

_CODES = {"bold": "1", "red": "31", "dim": "2"}
_RULE = re.compile(r"^[-\N{BOX DRAWINGS LIGHT HORIZONTAL} ]{8,}$")


def has_colours(stream: TextIO) -> bool:
    """Whether colours belong on a stream.

    They do on a terminal, unless `NO_COLOR` is set (https://no-color.org) or it is a dumb one.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Return a text in a colour where the stream has colours, as it is elsewhere.

    Args:
        text: The text.
        colour: `"bold"`, `"red"` or `"dim"`.
        stream: Where it will be printed.
    """
    return f"\033[{_CODES[colour]}m{text}\033[0m" if has_colours(stream) else text


def highlighted(text: str, stream: TextIO) -> str:
    """Return a text with the headings of its tables in bold and their rules dimmed.

    Args:
        text: What a command prints.
        stream: Where it will be printed.
    """
    if not has_colours(stream):
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if _RULE.match(line):
            lines[number] = coloured(line, "dim", stream)
            if number:
                lines[number - 1] = coloured(lines[number - 1], "bold", stream)
    return "\n".join(lines)

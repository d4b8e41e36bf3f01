"""What a command is: its flags, its help, and the function that runs it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from absl import flags

WIDTH = 88


class CommandLineError(ValueError):
    """A command line that cannot be understood; ends with exit code 2."""


@dataclass(frozen=True)
class Command:
    """One command of `tfcompress`.

    Args:
        name: What the user types.
        arguments: Its positional arguments as shown in the usage line.
        summary: One line for the list of commands.
        description: A paragraph or two for the command's own help.
        examples: Command lines, each with what it does.
        define: Defines the flags in the given holder.
        run: Gets the positional arguments and the parsed flags; returns what to print as text and
            as JSON-ready data.
    """

    name: str
    arguments: str
    summary: str
    description: str
    examples: Sequence[tuple[str, str]]
    define: Callable[[flags.FlagValues], None]
    run: Callable[[list[str], flags.FlagValues], Output]

    def new_flags(self) -> flags.FlagValues:
        """Return a holder of this command's flags, not parsed yet.

        Absl's global flags are left out on purpose: they fill the help with other things.
        """
        values = flags.FlagValues()
        values.set_gnu_getopt(True)
        self.define(values)
        flags.DEFINE_bool(
            "json", False, "Print the result as JSON; progress goes to stderr.", flag_values=values
        )
        flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
        flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
        return values

    def help(self) -> str:
        """Return the text of `tfcompress <command> --help`."""
        lines = [f"Usage: tfcompress {self.name} {self.arguments} [flags]", ""]
        for paragraph in self.description.strip().split("\n\n"):
            lines += [*textwrap.wrap(" ".join(paragraph.split()), WIDTH), ""]
        lines.append("Flags:")
        values = self.new_flags()
        for flag in {id(values[name]): values[name] for name in values}.values():
            lines += _flag_help(flag)
        lines += ["", "Examples:"]
        for line, meaning in self.examples:
            lines += [f"  # {meaning}", f"  {line}"]
        lines += ["", "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted."]
        return "\n".join(lines)


@dataclass(frozen=True)
class Output:
    """What a command prints.

    Args:
        text: For people.
        data: The same for programs, JSON-ready.
    """

    text: str
    data: object


def single(arguments: list[str], what: str) -> str:
    """Return the only positional argument.

    Args:
        arguments: What was given.
        what: What is expected, for the message.

    Returns:
        The argument.

    Raises:
        CommandLineError: If there is none or more than one.
    """
    if len(arguments) != 1:
        given = " ".join(arguments) or "nothing"
        raise CommandLineError(f"expected {what}. Received: {given}")
    return arguments[0]


def _flag_help(flag: flags.Flag) -> list[str]:
    short = f"-{flag.short_name}, " if flag.short_name else "    "
    value = "" if flag.boolean else f"={_placeholder(flag)}"
    left = f"  {short}--{flag.name}{value}"
    default = "" if flag.boolean or flag.default is None else f" Default: {flag.default}."
    # Absl puts the choices of an enum before its help; they stand in the left column here.
    text = re.sub(r"^<[^>]*>: ", "", flag.help or "")
    body = textwrap.wrap(f"{text}{default}", WIDTH - 30)
    if len(left) > 28:
        return [left, *(" " * 30 + line for line in body)]
    return [f"{left:<30}{body[0]}", *(" " * 30 + line for line in body[1:])]


def _placeholder(flag: flags.Flag) -> str:
    if isinstance(flag, flags.EnumFlag):
        return "|".join(flag.parser.enum_values)
    return {"int": "N", "float": "X"}.get(flag.flag_type(), "TEXT")

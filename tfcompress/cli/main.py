"""The entry point: finds the command, parses its flags, prints its result or its error."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence

from absl import app, flags, logging

from tfcompress.cli.colours import coloured, highlighted
from tfcompress.cli.command import Command, CommandLineError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = "Exit codes: 0 done, 1 the job failed, 2 the command line was wrong, 130 interrupted."

COMMANDS = ("run", "plan", "convert", "compare", "inspect")


def entry_point() -> None:
    """Run the command line of this process and exit with its code."""
    # Set before TensorFlow is imported: its start-up notices would bury the results.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(lambda arguments: main(arguments), flags_parser=_leave_flags)


def main(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: The program's name, the command, its arguments and flags.

    Returns:
        The exit code: 0 done, 1 the job failed, 2 the command line was wrong, 130 interrupted.
    """
    logging.set_verbosity(logging.WARNING)
    rest = list(arguments[1:])
    if not rest or rest[0] in ("-h", "--help", "-help", "help"):
        if len(rest) == 2 and rest[1] in COMMANDS:
            print(_command(rest[1]).help())
        else:
            print(_overview())
        return OK if rest else USAGE
    if rest[0] == "--version":
        from tfcompress import __version__

        print(f"tfcompress {__version__}")
        return OK
    if rest[0] not in COMMANDS:
        near = difflib.get_close_matches(rest[0], COMMANDS, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else "."
        known = ", ".join(COMMANDS)
        return _fail(USAGE, f"tfcompress: unknown command {rest[0]!r}{hint} Commands: {known}")
    return _run(_command(rest[0]), rest[1:])


def _run(command: Command, rest: list[str]) -> int:
    values = command.new_flags()
    title = f"tfcompress {command.name}"
    try:
        positional = values([title, *rest])[1:]
    except flags.Error as error:
        return _fail(USAGE, f"{title}: {error}\nSee: {title} --help")
    if values.help:
        print(command.help())
        return OK
    try:
        # With --json, stdout belongs to the result alone.
        stream = sys.stderr if values.json else sys.stdout
        with contextlib.redirect_stdout(stream):
            output = command.run(positional, values)
        if values.json:
            print(json.dumps(output.data, indent=2), flush=True)
        else:
            print(highlighted(output.text, sys.stdout), flush=True)
    except CommandLineError as error:
        return _fail(USAGE, f"{title}: {error}\nSee: {title} --help")
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, f"{title}: interrupted.")
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if values.debug:
            traceback.print_exc()
        hint = "" if values.debug else "\n(--debug shows the traceback)"
        return _fail(FAILED, f"{title}: {_message(error)}{hint}")
    return OK


def _message(error: Exception) -> str:
    # Messages of ValueError and OSError were written for the user; others need their type.
    if isinstance(error, (ValueError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _fail(code: int, message: str) -> int:
    program, colon, rest = message.partition(": ")
    print(coloured(program, "red", sys.stderr) + colon + rest, file=sys.stderr)
    return code


def _command(name: str) -> Command:
    command = importlib.import_module(f"tfcompress.cli.{name}").COMMAND
    if not isinstance(command, Command):
        raise TypeError(f"tfcompress.cli.{name}.COMMAND is no Command. Received: {command!r}")
    return command


def _overview() -> str:
    lines = [
        "tfcompress: pruning and quantization-aware training for Keras 3, verified int8 TFLite",
        "files, and a report against the float baseline.",
        "",
        "Usage: tfcompress <command> [arguments] [flags]",
        "",
        "Commands:",
        *(f"  {name:<10}{_command(name).summary}" for name in COMMANDS),
        "",
        "Help for one command: tfcompress <command> --help",
        EXIT_CODES,
    ]
    return "\n".join(lines)


def _leave_flags(arguments: list[str]) -> list[str]:
    # absl.app insists that its global flags are parsed; each command parses flags of its own.
    flags.FLAGS.mark_as_parsed()
    return arguments


if __name__ == "__main__":
    entry_point()

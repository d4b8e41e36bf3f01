"""`tfcompress inspect`: what a TFLite file holds."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.command import Command, Output, single


def _define(values: flags.FlagValues) -> None:
    del values  # only the flags that every command has


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    path = single(arguments, "one .tflite file")
    from tfcompress.export.inspection import inspect_file

    found = inspect_file(path)
    return Output(str(found), found.to_dict())


COMMAND = Command(
    name="inspect",
    arguments="FILE.tflite",
    summary="operators, types, scales, sparsity and float islands of a .tflite file",
    description="""
        Reads the file without running it; needs neither TensorFlow nor Keras, and takes a second.
    """,
    examples=(
        ("tfcompress inspect model.tflite", "a table"),
        ("tfcompress inspect model.tflite --json", "for a program"),
    ),
    define=_define,
    run=_run,
)

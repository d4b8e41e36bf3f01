"""`tfcompress compare`: models and files side by side."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tfcompress.cli.command import Command, CommandLineError, Output


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "data", None, "Test data: digits, tfds:<name>, or an .npz file.", flag_values=values
    )
    flags.DEFINE_string(
        "data_dir", None, "Folder of TensorFlow Datasets files.", flag_values=values
    )
    flags.DEFINE_string(
        "html", None, "Also write the report, with plots, here.", flag_values=values
    )
    flags.DEFINE_string(
        "report", None, "Also write everything in it as JSON here.", flag_values=values
    )
    flags.DEFINE_bool("latency", True, "Time the models (--nolatency: do not).", flag_values=values)
    flags.DEFINE_integer(
        "threads", 1, "Threads that LiteRT uses.", lower_bound=1, flag_values=values
    )


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    if not arguments:
        raise CommandLineError("expected models to compare, the baseline first")
    if values.data is None:
        raise CommandLineError("--data=digits (or tfds:<name>, or an .npz file) is required")
    entries = _entries(arguments)
    from tfcompress import datasets
    from tfcompress.evaluation import compare

    report = compare(
        entries,
        datasets.load(values.data, data_dir=values.data_dir),
        latency=values.latency,
        threads=values.threads,
    )
    text = str(report)
    if values.html is not None:
        report.to_html(values.html)
        text += f"\n\nReport with plots: {values.html}"
    if values.report is not None:
        report.to_json(values.report)
    return Output(text, report.to_dict())


def _entries(arguments: list[str]) -> dict[str, str]:
    """Return paths by name: `name=path`, or the file's stem where that is not ambiguous."""
    entries: dict[str, str] = {}
    stems = [Path(argument).stem for argument in arguments]
    for argument, stem in zip(arguments, stems):
        name, is_named, path = argument.partition("=")
        if not is_named:
            name, path = stem if stems.count(stem) == 1 else argument, argument
        if name in entries:
            raise CommandLineError(f"the name {name!r} is given to two models")
        entries[name] = path
    return entries


COMMAND = Command(
    name="compare",
    arguments="BASELINE [MODEL ...]",
    summary="accuracy, size, sparsity and latency of models side by side",
    description="""
        Compares .keras, .h5 and .tflite files on the test split of a data set; the first is the
        baseline that the differences refer to. A file can be given a name: int8=path/to/file.
    """,
    examples=(
        ("tfcompress compare float.keras int8.tflite --data=digits", "a table"),
        (
            "tfcompress compare base=a.keras small=b.tflite --data=digits --html=report.html",
            "with names, and plots in report.html",
        ),
        (
            "tfcompress compare a.tflite b.tflite --data=tfds:mnist --data_dir=~/tfds",
            "on a TensorFlow Datasets set",
        ),
    ),
    define=_define,
    run=_run,
)

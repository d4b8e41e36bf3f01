"""`tfcompress run`: do what a recipe says."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.command import Command, Output, single


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", None, "The run folder. Default: runs/<recipe's name>.",
        short_name="o", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "resume", False, "Go on with the killed or finished run in the folder.", flag_values=values
    )
    flags.DEFINE_bool("overwrite", False, "Replace the run in the folder.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", None, "Folder of TensorFlow Datasets files, in place of the recipe's.",
        flag_values=values,
    )  # fmt: skip


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    path = single(arguments, "one recipe, a YAML file")
    from tfcompress.recipe import Recipe, run

    recipe = Recipe.load(path)
    if values.data_dir is not None:
        recipe = recipe.with_data_dir(values.data_dir)
    result = run(recipe, values.output, resume=values.resume, overwrite=values.overwrite)
    return Output(str(result), {"folder": str(result.folder), **result.report.to_dict()})


COMMAND = Command(
    name="run",
    arguments="RECIPE",
    summary="train, prune, quantize, export and compare, as a recipe says",
    description="""
        Runs a recipe from training to the comparison with the float baseline. The run folder gets
        the models, the .tflite files with their sidecars, report.html, report.json, the plan, the
        recipe with all defaults and the library versions.

        A folder that holds a run is never overwritten unless asked to: use --resume, --overwrite or
        another --output.
    """,
    examples=(
        ("tfcompress run configs/digits_prune_int8.yaml", "the default job, a few minutes"),
        ("tfcompress run my.yaml --output=runs/second", "into a folder of your choice"),
        ("tfcompress run my.yaml --output=runs/second --resume", "go on after an interruption"),
    ),
    define=_define,
    run=_run,
)

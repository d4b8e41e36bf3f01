"""`tfcompress plan`: what would happen to each tensor of a model."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tfcompress.cli.command import Command, CommandLineError, Output, single


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "recipe", None, "YAML file whose prune and quantize sections to plan for.",
        short_name="r", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "scheme", None, "Quantization scheme to plan for, in place of a recipe.", flag_values=values
    )


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    path = Path(single(arguments, "one model, a .keras or .h5 file")).expanduser()
    if (values.recipe is None) == (values.scheme is None):
        raise CommandLineError("give either --recipe=FILE or --scheme=NAME")
    from tfcompress.plan import plan
    from tfcompress.recipe import Recipe
    from tfcompress.recipe.model_source import read_model

    what = values.scheme or Recipe.load(values.recipe)
    result = plan(read_model(path), what)
    return Output(str(result), result.to_dict())


COMMAND = Command(
    name="plan",
    arguments="MODEL",
    summary="what would happen to each layer, and why some are left alone",
    description="""
        Prints one row for each weight and activation of a .keras or .h5 model: what pruning and
        quantization would do to it, with which settings, or the reason why nothing is done. The
        model is not changed.
    """,
    examples=(
        ("tfcompress plan float.keras --recipe=r.yaml", "what a recipe would do"),
        ("tfcompress plan float.keras --scheme=int8", "what quantization alone would do"),
        ("tfcompress plan float.keras --scheme=int8 --json", "the same for a program"),
    ),
    define=_define,
    run=_run,
)

"""`tfcompress convert`: a trained model to a verified TFLite file."""

from __future__ import annotations

from absl import flags

from tfcompress.cli.command import Command, CommandLineError, Output, single


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", None, "The .tflite file to write.", short_name="o", flag_values=values
    )
    flags.DEFINE_enum(
        "scheme", "int8", ["int8", "float32"], "Numbers in the file.", flag_values=values
    )
    flags.DEFINE_string(
        "calibration", None,
        "Samples to take activation ranges from: an .npz file, or a data set such as digits.",
        short_name="c", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "data_dir", None, "Folder of TensorFlow Datasets files.", flag_values=values
    )
    flags.DEFINE_enum(
        "io", "int8", ["int8", "uint8", "float32"], "Type of the file's inputs and outputs.",
        flag_values=values,
    )  # fmt: skip


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    source = single(arguments, "one model: a .keras or .h5 file, or a SavedModel folder")
    if values.output is None:
        raise CommandLineError("--output=FILE.tflite is required")
    if values.scheme == "int8" and values.calibration is None:
        raise CommandLineError(
            "--scheme=int8 needs --calibration=samples.npz: a few hundred typical inputs, "
            "preprocessed as in training"
        )
    from tfcompress.cli.calibration import load_samples
    from tfcompress.export import convert

    samples = values.calibration and load_samples(values.calibration, values.data_dir)
    artifact = convert(
        source,
        values.output,
        scheme=values.scheme,
        calibration=samples,
        io=values.io if values.scheme == "int8" else "float32",
    )
    return Output(str(artifact), artifact.to_dict())


COMMAND = Command(
    name="convert",
    arguments="SOURCE -o FILE.tflite",
    summary="a trained Keras model or SavedModel to a verified .tflite file",
    description="""
        Converts in a child process, inspects the file op by op, and compares its outputs with the
        model's before it is put in place. Beside it goes FILE.tflite.json with sizes, operators,
        inputs and outputs.
    """,
    examples=(
        ("tfcompress convert saved_model -o m.tflite -c samples.npz", "post-training int8"),
        ("tfcompress convert m.keras -o m.tflite -c digits --io=float32", "with float in and out"),
        ("tfcompress convert m.keras -o m.tflite --scheme=float32", "no quantization"),
    ),
    define=_define,
    run=_run,
)

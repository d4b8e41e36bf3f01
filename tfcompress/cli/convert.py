"""`tfcompress convert`: a trained model to a verified TFLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from tfcompress.cli.calibration import define_calibration, read_calibration
from tfcompress.cli.command import Command, CommandLineError, Output, single
from tfcompress.export.source_checks import (
    has_callback_ranges,
    read_header,
    refuse_own_source,
    refuse_signature,
)

_WITHOUT_SAMPLES = ("float32", "float16", "dynamic", "w4")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", None, "The .tflite file to write.", short_name="o", flag_values=values
    )
    flags.DEFINE_string(
        "scheme", "int8",
        "Numbers in the file: int8, float32, float16, dynamic, int16x8 or w4; for Keras models "
        "also w4a8 and the other schemes of quantization-aware training, and schemes by layer, "
        "such as '{default: int8, head: float}'.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "effort", None, ["fast", "best"],
        "Post-training algorithms in place of the converter's own; Keras models only.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "algorithms", None,
        "Post-training algorithms by name: cross_layer_equalization, bias_absorption, "
        "bias_correction, adaround.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "observer", None, ["moving_average", "min_max", "percentile", "mse", "octav"],
        "How activation ranges are found; Keras models only.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "max_bytes", None,
        "For --scheme=auto: most bytes of the file; layers get 8 or 4 bits so that least is lost.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "max_drop", None,
        "For --scheme=auto: most accuracy that may be lost (0.01 is one point); the file is made "
        "as small as that allows.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "strategy", "mixed", ["mixed", "distribution", "global"],
        "For --scheme=auto: what the choice goes by.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "diagnose", False,
        "Say which layers cost most and, for Keras models, try the best remedy.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "fused_lstm", False,
        "One operator, with a state, for each LSTM layer.",
        flag_values=values,
    )  # fmt: skip
    define_calibration(values)
    flags.DEFINE_string(
        "signature", None,
        "Signature of a SavedModel. Default: serving_default, or the only one.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "unsafe", False,
        "Accept files that hold Python code, such as Lambda layers, and SavedModels that read or "
        "write files. Only for files from people you trust.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "time_limit", 600, "Seconds after which the child process is stopped.", flag_values=values
    )
    flags.DEFINE_float(
        "memory_limit", None,
        "Gigabytes of memory that the child process may hold. Default: nine tenths of what is "
        "free.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "c_array", None,
        "Write the file as C++ source, too: this .cc file and a .h file beside it.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "check_tflm", False,
        "Run the file with TensorFlow Lite for Microcontrollers, and say how much memory it takes "
        "(needs tflite-micro).",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "io", "int8", ["int8", "uint8", "float32"], "Type of the file's inputs and outputs.",
        flag_values=values,
    )  # fmt: skip


def _run(arguments: list[str], values: flags.FlagValues) -> Output:
    source = single(
        arguments, "one model: a .keras, .h5 or float .tflite file, or a SavedModel folder"
    )
    if values.output is None:
        raise CommandLineError("--output=FILE.tflite is required")
    try:
        refuse_own_source(source, values.output)
        refuse_signature(source, values.signature)
    except ValueError as error:
        raise CommandLineError(str(error)) from error
    scheme = _scheme(values.scheme)
    needed = scheme not in _WITHOUT_SAMPLES and not _has_ranges(source)
    if needed and values.calibration is None:
        raise CommandLineError(
            f"--scheme={values.scheme} needs --calibration=samples.npz: a few hundred typical "
            "inputs, preprocessed as in training. Without any, --scheme=dynamic quantizes the "
            "weights only"
        )
    if values.diagnose and scheme in (*_WITHOUT_SAMPLES, "int16x8", "auto"):
        raise CommandLineError(
            f"--diagnose is for 8-bit activations. Received: --scheme={values.scheme}"
        )
    from tfcompress.export import check_tflm, convert
    from tfcompress.export.worker import default_worker

    samples = read_calibration(values)
    settings = {
        "io": "float32" if scheme in _WITHOUT_SAMPLES else values.io,
        "observer": values.observer,
        "algorithms": values.algorithms,
        "effort": values.effort,
    }
    if scheme == "auto":
        settings |= {
            "max_bytes": values.max_bytes,
            "max_drop": values.max_drop,
            "strategy": values.strategy,
        }
    elif values.max_bytes is not None or values.max_drop is not None:
        raise CommandLineError("--max_bytes and --max_drop are budgets of --scheme=auto")
    if values.memory_limit is not None:
        default_worker().memory_limit = int(values.memory_limit * 1e9)
    artifact = convert(
        source,
        values.output,
        scheme,
        samples,
        signature=values.signature,
        safe_mode=not values.unsafe,
        fused_lstm=values.fused_lstm,
        time_limit=values.time_limit,
        **settings,
    )
    text, data = [str(artifact)], artifact.to_dict()
    if values.c_array is not None:
        array = artifact.to_c_array(values.c_array)
        text.append(f"C++ source: {array} and {array.with_suffix('.h')}")
        data["c_array"] = str(array)
    if values.check_tflm:
        check = check_tflm(artifact.path)
        text.append(str(check))
        data["tflm"] = check.to_dict()
    if values.diagnose:
        from tfcompress.search.diagnosis import diagnose

        settings |= {"signature": values.signature, "safe_mode": not values.unsafe}
        found = diagnose(source, artifact, samples, scheme, **settings)
        text.append(str(found))
        data["diagnosis"] = found.to_dict()
    return Output("\n\n".join(text), data)


def _has_ranges(source: str) -> bool:
    """Whether a file comes from quantization-aware training, which found the ranges."""
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix not in (".keras", ".h5", ".hdf5"):
        return False
    return read_header(path).is_quantization_aware or has_callback_ranges(path)


def _scheme(text: str) -> Any:
    """A name, or what YAML makes of a mapping."""
    if not text.strip().startswith("{"):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CommandLineError(f"--scheme is no YAML mapping ({error})") from error


COMMAND = Command(
    name="convert",
    arguments="SOURCE -o FILE.tflite",
    summary="a trained model of any kind to a verified .tflite file",
    description="""
        SOURCE is a SavedModel (Keras 3, tf_keras, tf.Module, TensorFlow 1), a .keras or .h5 file of
        Keras 2 or 3, also with the wrappers of tensorflow-model-optimization, or a float .tflite
        file.

        Converts in a child process, inspects the file op by op, and compares its outputs with the
        model's before it is put in place. Beside it goes FILE.tflite.json with sizes, operators,
        inputs and outputs.
    """,
    examples=(
        ("tfcompress convert saved_model -o m.tflite -c samples.npz", "post-training int8"),
        ("tfcompress convert m.keras -o m.tflite -c digits --io=float32", "with float in and out"),
        ("tfcompress convert m.keras -o m.tflite -c s.npz --scheme=w4a8 --effort=best", "4 bits"),
        ("tfcompress convert m.keras -o m.tflite -c s.npz --diagnose", "with what costs most"),
        (
            "tfcompress convert m.keras -o m.tflite -c digits --scheme=auto --max_bytes=60000",
            "8 or 4 bits for each layer",
        ),
        ("tfcompress convert m.keras -o m.tflite --scheme=float32", "no quantization"),
        (
            "tfcompress convert m.keras -o m.tflite -c img/ --image_scale=0.0078 --image_offset=-1",
            "images, scaled to -1 … 1",
        ),
        (
            "tfcompress convert m.keras -o m.tflite -c s.npz --c_array=m.cc --check_tflm",
            "for a microcontroller",
        ),
    ),
    define=_define,
    run=_run,
)

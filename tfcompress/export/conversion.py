"""Turning a model on disk into a TFLite file, in the child process."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.worker import Worker, default_worker


@dataclass(frozen=True)
class Scheme:
    """How weights and activations are stored.

    Args:
        name: `"int8"`, for example.
        io: Types that inputs and outputs may have; the first is the scheme's own.
        calibrated: Whether calibration samples are needed.
        integer: Whether activations are integers, so that a float operator is a fault.
        summary: One line for listings.
        caution: What LiteRT makes of it that one would not expect; empty where nothing.
    """

    name: str
    io: tuple[str, ...]
    calibrated: bool
    integer: bool
    summary: str
    caution: str = ""


# Times relative to float32 with one thread on x86: a small MobileNetV2, LiteRT 2.3 with XNNPACK.
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", ("float32",), False, False, "everything in 32-bit float"),
        Scheme(
            "float16",
            ("float32",),
            False,
            False,
            "weights stored in 16-bit float",
            "CPUs compute it in 32-bit float: half the file, no faster",
        ),
        Scheme(
            "dynamic",
            ("float32",),
            False,
            False,
            "8-bit weights, activations in float",
            "slower than float32 on CPUs, about 1.5 times: activations are quantized anew in every "
            "operator; weights of fewer than 1024 elements stay float",
        ),
        Scheme("int8", ("int8", "uint8", "float32"), True, True, "8-bit weights and activations"),
        Scheme(
            "int16x8",
            ("int16", "float32"),
            True,
            True,
            "8-bit weights, 16-bit activations",
            "far slower than float32 on CPUs, about 40 times: LiteRT has only reference kernels "
            "for it; made for accelerators and microcontrollers",
        ),
        Scheme(
            "w4",
            ("float32",),
            False,
            False,
            "weights stored in 4 bits, computed in float",
            "the weights are unpacked to 32-bit float when the file is loaded: a small file, no "
            "faster, and no less memory",
        ),
        Scheme(
            "fake_quant",
            ("int8", "uint8", "float32"),
            False,
            True,
            "8 bits with the ranges of the model's own fake-quant operations",
        ),
    )
}


@dataclass(frozen=True)
class InputSpec:
    """An input of a model that is to be converted.

    Args:
        name: Name in the exported signature.
        shape: Shape with the batch first; `None` for open dimensions.
        dtype: NumPy name of the type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Converted:
    """What came out of a conversion.

    Args:
        inputs: Input names in the order of the model (the file sorts them by name).
        outputs: Output names in the order of the model.
        references: The source model's answer to each of `samples`, batch first, by output name;
            empty when no samples were given.
        notes: Sentences on what was done to the model.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    references: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


def get_scheme(name: str, io: str) -> tuple[Scheme, str]:
    """Look a scheme up and settle the type of its inputs and outputs.

    Args:
        name: A key of `SCHEMES`.
        io: `"int8"` stands for the scheme's own type; others must be one of `Scheme.io`.

    Returns:
        The scheme and the type of its quantized inputs and outputs.

    Raises:
        ValueError: If there is no such scheme, or it cannot have such inputs and outputs.
    """
    if name not in SCHEMES:
        near = difflib.get_close_matches(str(name), SCHEMES, 1, 0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`scheme` must be one of {', '.join(map(repr, SCHEMES))}.{hint} Received: {name!r}"
        )
    scheme = SCHEMES[name]
    if io == "int8":
        return scheme, scheme.io[0]
    if io not in scheme.io:
        raise ValueError(
            f"`io` must be one of {', '.join(map(repr, scheme.io))} with scheme {name!r}. "
            f"Received: {io!r}"
        )
    return scheme, io


def describe_saved(
    source: str | PathLike[str],
    *,
    signature: str | None = None,
    safe_mode: bool = True,
    time_limit: float = 600,
    worker: Worker | None = None,
) -> list[InputSpec]:
    """Return the inputs of a model on disk.

    Args:
        source: A `.keras` or `.h5` file or a SavedModel folder.
        signature: Signature of a SavedModel. Default: `serving_default`, or the only one.
        safe_mode: Whether code and access to files in the model are refused.
        time_limit: Seconds after which the child process is killed.
        worker: The child process; by default the one that everybody shares.

    Raises:
        ValueError: If the signature is unknown, or the model is refused.
        ConversionError: If the model cannot be loaded.
    """
    answer = (worker or default_worker()).call(
        "tfcompress.export.jobs:describe",
        source=str(Path(source).resolve()),
        signature=signature,
        safe_mode=safe_mode,
        time_limit=time_limit,
    )
    return [
        InputSpec(entry["name"], tuple(entry["shape"]), entry["dtype"])
        for entry in answer["inputs"]
    ]


def static_shapes(
    inputs: Sequence[InputSpec], samples: Mapping[str, np.ndarray] | None
) -> dict[str, list[int]]:
    """Settle every open dimension of the inputs: the batch as 1, the others as in the samples.

    Args:
        inputs: Inputs of the model.
        samples: Arrays with the batch first, by input name.

    Raises:
        ValueError: If an input is a scalar, or a dimension is open and no samples were given.
    """
    shapes = {}
    for spec in inputs:
        if not spec.shape:
            raise ValueError(
                "Inputs need a batch dimension in front. "
                f"Received: input {spec.name!r}, which is a scalar"
            )
        sizes = [1 if spec.shape[0] is None else spec.shape[0]]
        for axis, size in enumerate(spec.shape[1:], start=1):
            if size is None and samples is None:
                raise ValueError(
                    "A TFLite file has fixed shapes, but the model leaves one open: give "
                    "`calibration` samples of the wanted shape, or build the model with it. "
                    f"Received: input {spec.name!r} of shape {spec.shape}"
                )
            sizes.append(samples[spec.name].shape[axis] if size is None and samples else size or 0)
        shapes[spec.name] = sizes
    return shapes


def convert_saved(
    source_path: str | PathLike[str],
    output_path: str | PathLike[str],
    *,
    scheme: str,
    io: str = "int8",
    calibration: Mapping[str, np.ndarray] | None = None,
    samples: Mapping[str, np.ndarray] | None = None,
    signature: str | None = None,
    safe_mode: bool = True,
    inputs: Sequence[InputSpec] | None = None,
    fused_lstm: bool = False,
    time_limit: float = 600,
    worker: Worker | None = None,
) -> Converted:
    """Convert a model on disk in the child process, with a batch of 1.

    The result is written straight to `output_path` and has not been looked at: callers give a
    temporary path and rename it after `inspect_file` and `verify`.

    Args:
        source_path: A `.keras` or `.h5` file or a SavedModel folder.
        output_path: The TFLite file to write.
        scheme: A key of `SCHEMES`. `"fake_quant"` is for a graph that holds fake-quant operations
            on its activations and weights that are already on their grid.
        io: Type of the quantized inputs and outputs. Integer inputs, such as token ids, keep
            theirs.
        calibration: Samples of each input, shape (n, …), for the schemes that need ranges.
        samples: Inputs, shape (n, …), to run through the source model; the answers are returned.
        signature: Signature of a SavedModel. Default: `serving_default`, or the only one.
        safe_mode: Whether code and access to files in the model are refused.
        inputs: What `describe_saved` returned, to save asking again.
        fused_lstm: Whether LSTM layers of a Keras model become one operator each.
        time_limit: Seconds after which the child process is killed.
        worker: The child process; by default the one that everybody shares.

    Returns:
        The order of inputs and outputs, and the answers to `samples`.

    Raises:
        ValueError: If the scheme, `io` or the signature is unknown, calibration samples are
            missing, or a shape stays open.
        ConversionError: If the model cannot be loaded or converted, or the converter crashed or
            took too long.

    Example:

    ```python
    convert_saved("stripped.keras", "aside.tflite", scheme="fake_quant", io="int8")
    ```
    """
    settings, io = get_scheme(scheme, io)
    if settings.calibrated and not calibration:
        raise ValueError(
            f"The scheme {scheme!r} needs `calibration` samples to find the ranges of the "
            "activations: an array of 100 to 500 typical inputs, a dictionary of arrays, or a "
            "`tf.data.Dataset`. Without data, scheme='dynamic' quantizes the weights only."
        )
    if inputs is None:
        inputs = describe_saved(
            source_path,
            signature=signature,
            safe_mode=safe_mode,
            time_limit=time_limit,
            worker=worker,
        )
    shapes = static_shapes(inputs, calibration or samples)
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        files = {
            name: str(Path(folder) / f"{name}.npz")
            for name, arrays in (("calibration", calibration), ("samples", samples))
            if arrays is not None
        }
        if calibration is not None:
            save_arrays(files["calibration"], calibration)
        if samples is not None:
            save_arrays(files["samples"], samples)
            files["references"] = str(Path(folder) / "references.npz")
        answer = (worker or default_worker()).call(
            "tfcompress.export.jobs:convert",
            source=str(Path(source_path).resolve()),
            output=str(Path(output_path).resolve()),
            scheme=scheme,
            io=io,
            signature=signature,
            safe_mode=safe_mode,
            shapes=shapes,
            calibration=files.get("calibration") if settings.calibrated else None,
            samples=files.get("samples"),
            references=files.get("references"),
            fused_lstm=fused_lstm,
            time_limit=time_limit,
        )
        references = load_arrays(files["references"]) if samples is not None else {}
    names = tuple(answer["inputs"]), tuple(answer["outputs"])
    return Converted(*names, references, tuple(answer["notes"]))

"""Quantizing a float `.tflite` file, whose layers are not known any more."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.export.arrays import load_arrays, save_arrays
from tfcompress.export.child import note
from tfcompress.export.conversion import Converted, InputSpec
from tfcompress.export.edge_types import with_uint8_edges
from tfcompress.export.inspection import inspect_file
from tfcompress.export.worker import default_worker

# Recipes of ai-edge-quantizer by scheme.
_RECIPES = {
    "dynamic": "dynamic_wi8_afp32",
    "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16",
}
# Made by rewriting the file itself.
_REWRITTEN = ("float32", "float16", "w4")


@dataclass(frozen=True)
class FloatFile:
    """A float `.tflite` file.

    Args:
        path: The file.
        inputs: Its inputs.
    """

    path: Path
    inputs: list[InputSpec]

    @classmethod
    def open(cls, path: Path) -> FloatFile:
        """Look at a file.

        Args:
            path: A `.tflite` file.

        Raises:
            ValueError: If it is no TFLite file, or is quantized already.
        """
        found = inspect_file(path)
        integers = [
            kind for kind in found.weight_bytes if kind.startswith(("int8", "int4", "uint8"))
        ]
        if integers:
            raise ValueError(
                "Only a float .tflite file can be quantized; quantize the model that it was made "
                f"from. Received: {path}, with weights in {', '.join(integers)}"
            )
        inputs = [InputSpec(spec.name, tuple(spec.shape), spec.dtype) for spec in found.inputs]
        return cls(path, inputs)

    def convert(
        self,
        output: Path,
        *,
        scheme: str,
        io: str,
        calibration: Mapping[str, np.ndarray] | None,
        samples: Mapping[str, np.ndarray],
        time_limit: float,
        fused_lstm: bool = False,
        **_: Any,
    ) -> Converted:
        """Quantize to `output`, and let the float file answer the samples.

        Args:
            output: The file to write.
            scheme: `"float32"` (a copy), `"float16"`, `"w4"`, `"dynamic"`, `"int8"` or
                `"int16x8"`.
            io: Type of quantized inputs and outputs.
            calibration: Samples of shape (n, …) by input name, for the schemes that need ranges.
            samples: Samples to run through the float file.
            time_limit: Seconds after which the child process is killed.
            fused_lstm: Must be False.

        Raises:
            ValueError: If the scheme cannot be had from a file, `fused_lstm` is true, or
                ai-edge-quantizer is missing.
            ConversionError: If the quantizer failed, crashed or took too long.
        """
        self._check(scheme)
        if fused_lstm:
            raise ValueError(
                "`fused_lstm` needs the layers of a Keras model. "
                f"Received: the .tflite file {self.path}"
            )
        with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
            files = {name: str(Path(folder) / f"{name}.npz") for name in ("in", "out", "ranges")}
            save_arrays(files["in"], samples)
            if calibration is not None:
                save_arrays(files["ranges"], calibration)
            worker = default_worker()
            specs = worker.call(
                "tfcompress.export.jobs:run_file",
                path=str(self.path.resolve()),
                samples=files["in"],
                output=files["out"],
                resolver="builtin",
                time_limit=time_limit,
            )
            worker.call(
                "tfcompress.export.float_file:quantize",
                source=str(self.path.resolve()),
                output=str(output),
                scheme=scheme,
                io=io,
                calibration=None if calibration is None else files["ranges"],
                batch=self.inputs[0].shape[0],
                time_limit=time_limit,
            )
            references = load_arrays(files["out"])
        names = tuple(spec["name"] for spec in specs)
        return Converted(tuple(spec.name for spec in self.inputs), names, references)

    def locate(self, path: Path, samples: Mapping[str, np.ndarray]) -> str:
        """Nothing: the layers that a file was made from are not known."""
        return ""

    def _check(self, scheme: str) -> None:
        if scheme in _REWRITTEN:
            return
        if scheme not in _RECIPES:
            raise ValueError(
                f"From a .tflite file only the schemes {', '.join([*_RECIPES, *_REWRITTEN])} can "
                f"be made; convert the model that it was made from. Received: scheme={scheme!r}"
            )
        if importlib.util.find_spec("ai_edge_quantizer") is None:
            raise ValueError(
                f"Quantizing a .tflite file to {scheme!r} needs ai-edge-quantizer, which is not "
                "installed: `pip install tfcompress[aeq]`, or convert the model that the file was "
                f"made from. Received: {self.path}"
            )


def quantize(
    source: str, output: str, scheme: str, io: str, calibration: str | None, batch: int
) -> None:
    """In the child process: quantize a float file, with ai-edge-quantizer where that is needed.

    Args:
        source: The float file.
        output: The file to write.
        scheme: A scheme of `FloatFile`.
        io: Type of quantized inputs and outputs.
        calibration: `.npz` with samples by input name, or None.
        batch: Samples that the file takes at once.
    """
    content = Path(source).read_bytes()
    if scheme in ("w4", "float16"):
        from tfcompress.export.weight_storage import store_weights

        content = store_weights(content, 4 if scheme == "w4" else 16)
    elif scheme != "float32":
        note(stage=f"quantizing the file with scheme {scheme!r}")
        arrays = None if calibration is None else load_arrays(calibration)
        content = _quantized(content, scheme, io == "float32", arrays, batch)
        if io == "uint8":
            content = with_uint8_edges(content)
    Path(output).write_bytes(content)


def _quantized(
    content: bytes,
    scheme: str,
    float_io: bool,
    arrays: dict[str, np.ndarray] | None,
    batch: int,
) -> bytes:
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    engine = quantizer.Quantizer(content, getattr(recipe, _RECIPES[scheme])())
    if float_io and scheme in ("int8", "int16x8"):
        for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            engine.update_quantization_recipe(
                regex=".*", operation_name=edge, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE
            )
    ranges = None
    if engine.need_calibration and arrays is not None:
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(engine.get_quantization_recipe())
        # The library's default is a moving average, which forgets the first samples.
        observer = calibrator.Calibrator(
            content,
            num_threads=1,
            mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
            qsv_update_func=qsv_utils.min_max_update,
        )
        signature = next(iter(observer.get_signature_list()))
        observer.calibrate({signature: list(_batches(arrays, batch))}, manager)
        ranges = observer.get_model_qsvs()
    return bytes(engine.quantize(ranges).quantized_model)


def _batches(arrays: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """The samples in batches of the file's fixed size; the last is filled up."""
    count = len(next(iter(arrays.values())))
    for start in range(0, count, size):
        index = np.arange(start, start + size) % count
        yield {name: values[index] for name, values in arrays.items()}

"""The ways to quantize after training that the benchmark compares."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Method = Callable[[Any, Path, np.ndarray], None]


def own(scheme: Any, **settings: Any) -> Method:
    """A conversion by `tfcompress.convert`."""

    def run(model: Any, path: Path, calibration: np.ndarray) -> None:
        import tfcompress

        artifact = tfcompress.convert(model, path, scheme, calibration, **settings)
        print("\n".join(artifact.notes), flush=True)

    return run


def aeq(weight_bits: int) -> Method:
    """ai-edge-quantizer on the float file, with the extremes of the samples as ranges."""

    def run(model: Any, path: Path, calibration: np.ndarray) -> None:
        from ai_edge_quantizer import calibrator, quantizer, recipe_manager
        from ai_edge_quantizer.recipe import TFLOperationName
        from ai_edge_quantizer.utils import qsv_utils

        import tfcompress

        recipes = recipe_manager.RecipeManager()
        recipes.add_static_config(
            regex=".*",
            operation_name=TFLOperationName.ALL_SUPPORTED,
            activation_num_bits=8,
            weight_num_bits=weight_bits,
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "float.tflite"
            spec = tfcompress.convert(model, file, "float32", calibration[:8]).inputs[0]
            content = file.read_bytes()
        samples = {"serving_default": [{spec.name: sample[None]} for sample in calibration]}
        found = calibrator.Calibrator(
            content,
            mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
            qsv_update_func=qsv_utils.min_max_update,
        )
        found.calibrate(samples, recipes)
        engine = quantizer.Quantizer(content, recipes.get_quantization_recipe())
        result = engine.quantize(found.get_model_qsvs())
        path.write_bytes(result.quantized_model)

    return run


METHODS: dict[str, Method] = {
    "float32": own("float32"),
    # Any tolerance: what is too far from the model to pass as a file is to be measured, too.
    "converter_int8": own("int8", tolerance=1000),
    "aeq_int8": aeq(8),
    "int8_min_max": own("int8", algorithms=[], tolerance=1000),
    "int8_equalization": own("int8", algorithms=["cross_layer_equalization"]),
    "int8": own("int8", effort="best"),
    "fused_lstm_int8": own("int8", fused_lstm=True, tolerance=1000),
    "aeq_w4a8": aeq(4),
    "w4a8_min_max": own("w4a8", tolerance=1000),
    "w4a8_bias_correction": own("w4a8", algorithms=["bias_correction"]),
    "w4a8_adaround": own("w4a8", algorithms=["adaround"]),
    "w4a8_best": own("w4a8", effort="best"),
}

# What is measured where: single algorithms on the network that shows what they are for.
_EVERYWHERE = ("float32", "converter_int8", "aeq_int8", "int8", "w4a8_min_max", "w4a8_best")
CHOSEN = {
    "resnet8": (*_EVERYWHERE, "aeq_w4a8", "w4a8_bias_correction", "w4a8_adaround"),
    "mobilenet_v2_unequal": (*_EVERYWHERE, "aeq_w4a8", "int8_min_max", "int8_equalization"),
    "ds_cnn": _EVERYWHERE,
    "lstm": (*_EVERYWHERE, "fused_lstm_int8"),
}

"""From a trained model to a TFLite file that is proven to compute the same.

Names are imported on first use: looking into a `.tflite` file needs neither Keras nor TensorFlow.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfcompress.export.artifact import Artifact as Artifact
    from tfcompress.export.conversion import SCHEMES as SCHEMES
    from tfcompress.export.conversion import convert_saved as convert_saved
    from tfcompress.export.converter import convert as convert
    from tfcompress.export.exporter import export as export
    from tfcompress.export.inspection import Inspection as Inspection
    from tfcompress.export.inspection import inspect_file as inspect_file
    from tfcompress.export.microcontroller import MicrocontrollerCheck as MicrocontrollerCheck
    from tfcompress.export.microcontroller import check_tflm as check_tflm
    from tfcompress.export.strip import strip as strip
    from tfcompress.export.tensor_spec import TensorSpec as TensorSpec
    from tfcompress.export.tolerance import Tolerance as Tolerance
    from tfcompress.export.verification import Fidelity as Fidelity
    from tfcompress.export.verification import FidelityError as FidelityError
    from tfcompress.export.verification import verify as verify
    from tfcompress.export.worker import ConversionError as ConversionError
    from tfcompress.export.worker import Worker as Worker

_MODULES = {
    "Artifact": "artifact",
    "SCHEMES": "conversion",
    "convert_saved": "conversion",
    "convert": "converter",
    "export": "exporter",
    "Inspection": "inspection",
    "inspect_file": "inspection",
    "MicrocontrollerCheck": "microcontroller",
    "check_tflm": "microcontroller",
    "strip": "strip",
    "TensorSpec": "tensor_spec",
    "Fidelity": "verification",
    "FidelityError": "verification",
    "Tolerance": "tolerance",
    "verify": "verification",
    "ConversionError": "worker",
    "Worker": "worker",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps the function `strip` from being hidden by the module of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule binds it in its parent, here over the function.
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

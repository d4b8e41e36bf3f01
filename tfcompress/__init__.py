"""tfcompress: quantization-aware training, pruning and faithful TFLite export for Keras 3.

Public names are imported when they are first used, so that `import tfcompress` costs nothing and
the commands that only read a `.tflite` file load neither Keras nor TensorFlow.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfcompress.evaluation import FidelityReport as FidelityReport
    from tfcompress.evaluation import Report as Report
    from tfcompress.evaluation.compare import compare as compare
    from tfcompress.evaluation.layer_fidelity import fidelity as fidelity
    from tfcompress.export.artifact import Artifact as Artifact
    from tfcompress.export.converter import convert as convert
    from tfcompress.export.exporter import export as export
    from tfcompress.export.inspection import inspect_file as inspect_file
    from tfcompress.export.strip import strip as strip
    from tfcompress.interop import from_tf_keras as from_tf_keras
    from tfcompress.plan import Plan as Plan
    from tfcompress.plan import plan as plan
    from tfcompress.pruning.structured import dependency_groups as dependency_groups
    from tfcompress.pruning.structured import shrink as shrink
    from tfcompress.quantization import Scheme as Scheme
    from tfcompress.quantization import SchemeMap as SchemeMap
    from tfcompress.quantization import quantize_aware as quantize_aware
    from tfcompress.recipe import Recipe as Recipe
    from tfcompress.recipe import run as run
    from tfcompress.restructure import rank_layers as rank_layers
    from tfcompress.restructure import remove_layers as remove_layers
    from tfcompress.search import Sensitivity as Sensitivity
    from tfcompress.search.sensitivity import sensitivity as sensitivity

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "tfcompress.export.artifact",
    "FidelityReport": "tfcompress.evaluation",
    "Plan": "tfcompress.plan",
    "Recipe": "tfcompress.recipe",
    "Report": "tfcompress.evaluation",
    "Scheme": "tfcompress.quantization.schemes",
    "SchemeMap": "tfcompress.quantization.schemes",
    "Sensitivity": "tfcompress.search",
    "compare": "tfcompress.evaluation",
    "convert": "tfcompress.export",
    "dependency_groups": "tfcompress.pruning.structured",
    "export": "tfcompress.export",
    "fidelity": "tfcompress.evaluation",
    "from_tf_keras": "tfcompress.interop",
    "inspect_file": "tfcompress.export.inspection",
    "plan": "tfcompress.plan",
    "quantize_aware": "tfcompress.quantization",
    "rank_layers": "tfcompress.restructure",
    "remove_layers": "tfcompress.restructure",
    "run": "tfcompress.recipe",
    "sensitivity": "tfcompress.search",
    "shrink": "tfcompress.pruning.structured",
    "strip": "tfcompress.export",
}
_MODULES = (
    "callbacks",
    "datasets",
    "evaluation",
    "graph",
    "interop",
    "pruning",
    "quantization",
    "recipe",
    "restructure",
    "search",
)

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"tfcompress.{name}")
    raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps the functions `export` and `plan` from being hidden by the modules of those names."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule binds it in its parent, here over the function.
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# `keras.models.load_model` must know the wrappers of a quantization-aware model. A program without
# Keras, such as `tfcompress inspect`, is spared the import.
if "keras" in sys.modules:
    import_module("tfcompress.quantization")
    import_module("tfcompress.interop.legacy_activations")

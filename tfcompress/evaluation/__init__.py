"""Judging compressed models: quality, size, speed, and the report that shows them."""

from tfcompress.evaluation.compare import compare
from tfcompress.evaluation.layer_fidelity import FidelityReport, TensorFidelity, fidelity
from tfcompress.evaluation.litert import LiteRTModel
from tfcompress.evaluation.report import Report
from tfcompress.evaluation.results import EntryResult, Latency, LayerWeight

__all__ = [
    "EntryResult",
    "FidelityReport",
    "Latency",
    "LayerWeight",
    "LiteRTModel",
    "Report",
    "TensorFidelity",
    "compare",
    "fidelity",
]

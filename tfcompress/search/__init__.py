"""Searching for settings: what each layer costs to compress, and how to spend a budget."""

from tfcompress.search.allocation_table import Allocation, LayerBits, ParetoPoint
from tfcompress.search.curves import Sensitivity, SensitivityPoint
from tfcompress.search.mixed_precision import mixed_precision
from tfcompress.search.sensitivity import sensitivity

__all__ = [
    "Allocation",
    "LayerBits",
    "ParetoPoint",
    "Sensitivity",
    "SensitivityPoint",
    "mixed_precision",
    "sensitivity",
]

"""Callbacks for `model.fit`: each drives one compression technique."""

from tfcompress.callbacks.magnitude_pruning import MagnitudePruning as MagnitudePruning
from tfcompress.callbacks.quantization_aware_training import (
    QuantizationAwareTraining as QuantizationAwareTraining,
)
from tfcompress.callbacks.quantization_schedule import QuantizationSchedule as QuantizationSchedule
from tfcompress.callbacks.structured_pruning import StructuredPruning as StructuredPruning
from tfcompress.callbacks.tensorboard_compression import (
    TensorBoardCompression as TensorBoardCompression,
)

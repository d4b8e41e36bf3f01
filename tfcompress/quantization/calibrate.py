"""Setting activation ranges from sample data."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph import keras_internals
from tfcompress.graph.model_inputs import call_flat, sample_specs
from tfcompress.progress import progress_bar
from tfcompress.quantization.activation_quantizer import ActivationQuantizer, calibration_of
from tfcompress.quantization.quantized_layer import QuantizedLayer


def quantizers_of(model: keras.Model) -> list[ActivationQuantizer]:
    """All activation quantizers of a model, those inside wrappers too."""
    layers = keras_internals.flat_sublayers(model)
    return [layer for layer in layers if isinstance(layer, ActivationQuantizer)]


def wrappers_of(model: keras.Model) -> list[QuantizedLayer]:
    """All quantized layers of a model."""
    layers = keras_internals.flat_sublayers(model)
    return [layer for layer in layers if isinstance(layer, QuantizedLayer)]


def calibrate(model: keras.Model, data: Any, batch_size: int = 32) -> None:
    """Widen the activation ranges of a quantization-aware model to what sample data show.

    Args:
        model: A model made by `quantize_aware`.
        data: Samples, in any form that `quantize_aware` takes as `calibration`.
        batch_size: Samples in a batch, unless the model has a batch size of its own. Defaults to
            32.

    Raises:
        ValueError: If the data do not fit the model's inputs, or do not fill its batch.
    """
    samples = list(calibration_samples(data, sample_specs(model)).values())
    count = len(samples[0])
    own = next((tensor.shape[0] for tensor in model.inputs if tensor.shape[0] is not None), None)
    if own is not None:
        # What is left over fills no batch.
        batch_size, count = own, count - count % own
        if not count:
            raise ValueError(
                f"The model '{model.name}' takes batches of {own} samples, so `calibration` needs "
                f"as many. Received: {len(samples[0])} samples"
            )
    with calibration_of(quantizers_of(model)), progress_bar(count) as advance:
        for start in range(0, count, batch_size):
            call_flat(model, [values[start : start + batch_size] for values in samples])
            advance("calibration", batch_size)

"""Reasons for which several kinds of layers stay in float."""

from __future__ import annotations

CHANNELS_LAST = "LiteRT has kernels for the channels_last data format only"
OPEN_SHAPE = "its input has axes of no fixed size apart from the batch"
LORA = "LoRA adapters are enabled; merge them first"

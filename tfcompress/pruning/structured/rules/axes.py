"""Which axis of a tensor holds the channels of a layer."""

from __future__ import annotations

from keras import layers


def channel_axis(layer: layers.Layer, rank: int) -> int:
    """The channels' axis of a tensor, by the data format of a layer that has one.

    Args:
        layer: A convolution, pooling or similar layer.
        rank: Rank of the tensor.
    """
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1

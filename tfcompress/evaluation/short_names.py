"""Names of weights and layers as plots and tables have room for them."""

from __future__ import annotations

# What the converter calls the operation of a layer, after the layer.
_OPERATIONS = frozenset(
    {
        "BiasAdd",
        "Conv2D",
        "DepthwiseConv2dNative",
        "MatMul",
        "conv_transpose",
        "convolution",
        "depthwise",
    }
)


def short_name(name: str) -> str:
    """Return the part of a weight's name that tells layers apart.

    The converter joins the names of everything that it fused with semicolons, and each is a path
    through the scopes of the model.
    """
    parts = name.split(";")[0].strip("/").split("/")
    if len(parts) > 1 and parts[-1] in _OPERATIONS:
        return parts[-2]
    return "/".join(parts[-2:])


def clip(text: str, width: int) -> str:
    """Return the start of a text, with an ellipsis where the rest was cut off."""
    return text if len(text) <= width else text[: width - 1] + "…"

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
_TRACED_AGAIN = "_1"


def short_name(name: str) -> str:
    """Return the part of a weight's name that tells layers apart.

    The converter joins the names of everything that it fused with semicolons, and each is a path
    through the scopes of the model. TensorFlow numbers the scopes of a Keras 3 model once more when
    it is traced for the file, so that all of them end with `_1`: the layers' own names do not.
    """
    parts = name.split(";")[0].strip("/").split("/")
    if len(parts) > 1 and parts[-1] in _OPERATIONS:
        traced_again = len(parts) > 2 and parts[0].endswith(_TRACED_AGAIN)
        return parts[-2].removesuffix(_TRACED_AGAIN) if traced_again else parts[-2]
    return "/".join(parts[-2:])


def clip(text: str, width: int) -> str:
    """Return the start of a text, with an ellipsis where the rest was cut off."""
    return text if len(text) <= width else text[: width - 1] + "…"

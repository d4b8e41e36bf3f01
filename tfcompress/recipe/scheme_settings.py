"""Quantization schemes as recipes write them: a name, settings, or a map of layers."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

from tfcompress.recipe.section import Section, plain_name


class SchemeSettings(Section):
    """The settings of a quantization scheme, where it has no name; see `tfcompress.Scheme`.

    Args:
        name: Name by which plans and files call it; made from the settings by default.
        weight_bits: Bits of a weight.
        activation_bits: Bits of an activation.
        granularity: What shares a weight scale.
        weight_range: What the largest weight code stands for.
        activations: Kind of the activation ranges, or one range `[low, high]` for all.
        observer: How activation ranges are found: a name, or a mapping of `name` and arguments.
        power_of_two: Which scales are powers of two.
        learned: How ranges are trained.
        arithmetic: Whether scales, biases and sums are rounded as LiteRT has them.
    """

    name: Annotated[str, AfterValidator(plain_name)] | None = None
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 8
    activation_bits: Literal[8] = 8
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    weight_range: Literal["max", "mse", "octav"] = "max"
    activations: (
        Literal["asymmetric", "symmetric"]
        | Annotated[list[float], Field(min_length=2, max_length=2)]
    ) = "asymmetric"
    observer: str | dict[str, Any] = "moving_average"
    power_of_two: Literal["weights", "all"] | None = None
    learned: Literal["lsq", "pact"] | None = None
    arithmetic: Literal["integer", "float"] = "integer"


def _scheme(value: str | dict[str, Any]) -> str | dict[str, Any]:
    """Check the form of a scheme; its names are checked where it is used, by Keras code."""
    if isinstance(value, str):
        return value
    if any(key in SchemeSettings.model_fields for key in value):
        return _settings(value)
    for pattern, scheme in value.items():
        if isinstance(scheme, dict):
            _settings(scheme)
        elif not isinstance(scheme, str | None):
            raise ValueError(
                f"for the layers {pattern!r} the name of a scheme, a mapping of its settings, or "
                f"null for float, not {scheme!r}"
            )
    return value


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    try:
        SchemeSettings.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, known = str(first["loc"][0]), list(SchemeSettings.model_fields)
        if first["type"] != "extra_forbidden":
            raise ValueError(f"a scheme with a valid `{key}` ({first['msg']})") from error
        near = difflib.get_close_matches(key, known, 1, 0.0)[0]
        raise ValueError(
            f"a scheme without `{key}`; the nearest known setting is `{near}`"
        ) from error
    return value


SchemeValue = Annotated[str | dict[str, Any], AfterValidator(_scheme)]

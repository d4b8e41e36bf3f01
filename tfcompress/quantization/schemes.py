"""Quantization schemes: how many bits, on which grid, for which layer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras

from tfcompress.graph.selection import Pattern, as_patterns
from tfcompress.hints import did_you_mean
from tfcompress.quantization import learned_scale, observers, weight_scale

GRANULARITIES = ("per_channel", "per_tensor")
ACTIVATIONS = ("asymmetric", "symmetric")
POWERS_OF_TWO = ("weights", "all")
ARITHMETICS = ("integer", "float")

# What stands for "leave it in float" in a map of schemes, beside None.
FLOAT = "float"


def _one_of(setting: str, value: Any, allowed: tuple[str, ...], *others: str) -> None:
    if value not in allowed:
        listed = ", ".join([*map(repr, allowed), *others])
        raise ValueError(f"`{setting}` must be one of {listed}. Received: {value!r}")


def _fixed_range(ends: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`activations` must be 'asymmetric', 'symmetric' or a range (low, high). "
            f"Received: {ends!r}"
        ) from error
    if not low <= 0 <= high or low == high:
        raise ValueError(f"A fixed range of activations must hold zero. Received: {ends!r}")
    return low, high


# Largest width of codes that LiteRT stores two in a byte.
PACKED_BITS = 4


@keras.saving.register_keras_serializable("tfcompress")
@dataclass(frozen=True)
class Scheme:
    """How weights and activations are put on integer grids.

    Weights are symmetric with a narrow range: at 8 bits the codes go from -127 to 127. Activations
    have one scale for each tensor. By default weights have one for each output channel, given by
    the largest magnitude, and activations follow the moving average of what batches show: the
    specification of LiteRT's integer kernels.

    The exported file has exactly the codes and scales that were trained, whatever chose them. Codes
    of up to 4 bits are packed as INT4 in convolutions and dense layers; elsewhere, and for 5 to 7
    bits, they are stored as INT8 without loss. A batch normalization that is folded into a layer
    multiplies its scales, which then are no powers of two and differ by channel.

    Args:
        name: Name by which plans and artifacts call the scheme. Made from the rest by default, such
            as `"w4a8_symmetric"`.
        weight_bits: Bits of a weight, 2 to 8. Defaults to 8.
        activation_bits: Bits of an activation. Only 8 can be run by LiteRT. Defaults to 8.
        granularity: `"per_channel"` or `"per_tensor"`: what shares a weight scale. Defaults to
            `"per_channel"`.
        weight_range: What the largest weight code stands for: `"max"`, the largest magnitude, or
            the clipping of least squared error found by search (`"mse"`) or by Newton's method
            (`"octav"`), worth its time below 8 bits; or `"given"`: what it is set to by
            `QuantizedLayer.set_weight_limits`, whatever the weights become, which are clipped; the
            largest magnitude until then. Defaults to `"max"`.
        activations: `"asymmetric"`, `"symmetric"` (the code of zero is 0), or a fixed range
            `(low, high)` of the outputs. Ranges that LiteRT imposes, as on a softmax, stay.
            Defaults to `"asymmetric"`.
        observer: How activation ranges are found: `"moving_average"`, `"min_max"`, `"percentile"`,
            `"mse"`, `"octav"`, or such a name with arguments as a mapping or an `Observer`.
            Defaults to `"moving_average"`.
        power_of_two: `"weights"` for weight scales that are powers of two, the fixed-point form
            `round(w * 2**p)`; `"all"` for those of activations as well. Defaults to None.
        learned: `"lsq"`: scales of weights and activations are trained, starting from
            `weight_range` and `observer`. `"pact"`: activation ranges are trained by what they
            clip, under decay. Defaults to None.
        arithmetic: `"integer"`: scales and biases are rounded as the file stores them, and sums in
            evaluation as LiteRT's integers are. `"float"`: only weights and activations are, as
            tfmot has it; recurrent layers round biases in any case. Defaults to `"integer"`.

    Raises:
        ValueError: If a setting is not one of those listed, or two do not go together.

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", sections 2 and 3; Jain et al. 2020, "Trained Quantization
    Thresholds"; Esser et al. 2020, "Learned Step Size Quantization"; Choi et al. 2018, "PACT";
    Sakr et al. 2022, "Optimal Clipping and Magnitude-aware Differentiation".

    Example:

    ```python
    four_bits = tfcompress.Scheme(weight_bits=4, weight_range="octav")
    model = tfcompress.quantize_aware(model, four_bits)
    ```
    """

    name: str = ""
    weight_bits: int = 8
    activation_bits: int = 8
    granularity: str = "per_channel"
    weight_range: str = "max"
    activations: str | tuple[float, float] = "asymmetric"
    observer: str | Mapping[str, Any] | observers.Observer = "moving_average"
    power_of_two: str | None = None
    learned: str | None = None
    arithmetic: str = "integer"

    def __post_init__(self) -> None:
        bits = self.weight_bits
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
            raise ValueError(f"`weight_bits` must be 2 to 8. Received: {self.weight_bits!r}")
        if self.activation_bits != 8:
            raise ValueError(
                "`activation_bits` must be 8, the only width that LiteRT's integer kernels take "
                f"from fake quantization. Received: {self.activation_bits!r}"
            )
        _one_of("granularity", self.granularity, GRANULARITIES)
        _one_of("weight_range", self.weight_range, (*weight_scale.METHODS, weight_scale.GIVEN))
        if self.power_of_two is not None:
            _one_of("power_of_two", self.power_of_two, POWERS_OF_TWO, "None")
        if self.learned is not None:
            _one_of("learned", self.learned, learned_scale.METHODS, "None")
        _one_of("arithmetic", self.arithmetic, ARITHMETICS)
        if self.power_of_two is not None and self.learned is not None:
            raise ValueError(
                "A scale is either a power of two or learned. Received: "
                f"power_of_two={self.power_of_two!r}, learned={self.learned!r}"
            )
        if self.has_given_scales and (self.power_of_two is not None or self.learned == "lsq"):
            raise ValueError(
                "A given scale of weights is neither a power of two nor learned. Received: "
                f"weight_range={self.weight_range!r}, power_of_two={self.power_of_two!r}, "
                f"learned={self.learned!r}"
            )
        if isinstance(self.activations, str):
            _one_of("activations", self.activations, ACTIVATIONS, "a range (low, high)")
        else:
            object.__setattr__(self, "activations", _fixed_range(self.activations))
        object.__setattr__(self, "observer", observers.get(self.observer))
        if not self.name:
            object.__setattr__(self, "name", self._default_name())

    def _default_name(self) -> str:
        parts = ["int8" if self.weight_bits == 8 else f"w{self.weight_bits}a8"]
        if self.granularity != "per_channel" and self.power_of_two is None:
            parts.append(self.granularity)
        if self.weight_range != "max":
            parts.append(self.weight_range)
        if self.activations != "asymmetric":
            parts.append(self.activations if isinstance(self.activations, str) else "fixed")
        if self.observer != observers.MovingAverage():
            parts.append(observers.get(self.observer).name)
        if self.power_of_two is not None:
            parts.append("pot" if self.power_of_two == "weights" else "pot_all")
        if self.learned is not None:
            parts.append(self.learned)
        if self.arithmetic != "integer":
            parts.append("float_arithmetic")
        return "_".join(parts)

    @property
    def fixed_range(self) -> tuple[float, float] | None:
        """The range of activations where it is given, else None."""
        return None if isinstance(self.activations, str) else self.activations

    @property
    def has_given_scales(self) -> bool:
        """Whether the scales of weights are set from outside."""
        return self.weight_range == weight_scale.GIVEN

    @property
    def is_packed(self) -> bool:
        """Whether LiteRT stores a weight in 4 bits, for the operations that read them so."""
        return self.weight_bits <= PACKED_BITS

    @property
    def packed_factor(self) -> int:
        """How many 4-bit codes one of fewer bits is stored as, a power of two."""
        return int(2 ** (PACKED_BITS - max(self.weight_bits, 2)))

    @property
    def on_converters_grid(self) -> bool:
        """Whether a converter that sees only the rounded weights finds their scales again."""
        return (self.weight_bits, self.granularity, self.weight_range) == (
            8,
            "per_channel",
            "max",
        ) and (self.power_of_two is None and self.learned != "lsq")

    @property
    def weight_scale_words(self) -> str:
        """How weight scales are chosen, for plans."""
        chosen = [self.weight_range] if self.weight_range != "max" else []
        if self.power_of_two is not None:
            chosen.append("power of two")
        if self.learned == "lsq":
            chosen = ["lsq"]
        return " ".join([*chosen, self.granularity.replace("_", " ")])

    @property
    def range_words(self) -> str:
        """How activation ranges are found, for plans."""
        found = self.learned or observers.get(self.observer).name.replace("_", " ")
        words = ["symmetric"] if self.activations == "symmetric" else []
        if self.power_of_two == "all":
            words.append("power of two")
        return " ".join([*words, found])

    def quantizer_config(self) -> dict[str, Any]:
        """The arguments of the `ActivationQuantizer`s of the scheme."""
        return {
            "bits": self.activation_bits,
            "observer": observers.get(self.observer).get_config(),
            "symmetric": self.activations == "symmetric",
            "power_of_two": self.power_of_two == "all",
            "learned": self.learned,
            "short_scale": self.arithmetic == "integer",
        }

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal scheme."""
        config = {**asdict(self), "observer": observers.get(self.observer).get_config()}
        if self.fixed_range is not None:
            config["activations"] = list(self.fixed_range)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Scheme:
        """Make a scheme from `get_config`'s result.

        Raises:
            ValueError: If a key is not known or a value is not allowed.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.0)
                raise ValueError(
                    f"A scheme has no setting {key!r}; the nearest is {near[0]!r}. Known: {known}"
                )
        return cls(**config)


@keras.saving.register_keras_serializable("tfcompress")
@dataclass(frozen=True)
class SchemeMap:
    """Schemes by layer.

    The entries are read in order, and the last one that matches a layer decides, as in a
    `.gitignore` file: put what is general first. A layer's scheme holds for its weights and for the
    activations that it makes, also behind a batch normalization and a ReLU that fuse with it. Model
    inputs answer to their names, else they have the default scheme.

    Args:
        default: Scheme of what no entry matches; None leaves it in float. Defaults to int8.
        entries: Pairs of a pattern (a layer's name, a regular expression that the whole name
            matches, a layer class or its name) and a scheme, or None to leave the layer in float.
            Defaults to none.

    Example:

    ```python
    schemes = {"default": "int8", "stack_.*": "w4a8", "head": None}
    model = tfcompress.quantize_aware(model, schemes)
    ```
    """

    default: Scheme | None = Scheme()
    entries: tuple[tuple[Pattern, Scheme | None], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", _layer_scheme("default", self.default))
        entries = []
        for pattern, scheme in self.entries:
            as_patterns(pattern, "scheme")
            entries.append((pattern, _layer_scheme(pattern, scheme)))
        object.__setattr__(self, "entries", tuple(entries))

    @property
    def name(self) -> str:
        """The names of the schemes in it, each once."""
        found = [self.default, *(scheme for _, scheme in self.entries)]
        return "+".join(dict.fromkeys(FLOAT if s is None else s.name for s in found))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal map; classes are written as their names."""

        def config(scheme: Scheme | None) -> dict[str, Any] | None:
            return None if scheme is None else scheme.get_config()

        return {
            "default": config(self.default),
            "entries": [
                [p if isinstance(p, str) else p.__name__, config(scheme)]
                for p, scheme in self.entries
            ],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SchemeMap:
        """Make a map from `get_config`'s result."""
        return cls(config["default"], tuple((p, s) for p, s in config["entries"]))


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(),
        Scheme(activations="symmetric"),
        Scheme(granularity="per_tensor"),
        Scheme("int8_pot", granularity="per_tensor", power_of_two="weights"),
        Scheme(learned="lsq"),
        Scheme(learned="pact"),
        *(Scheme(weight_bits=bits) for bits in range(2, 8)),
        Scheme("w4a8_lsq", weight_bits=4, weight_range="mse", learned="lsq"),
    )
}


# What stands for a scheme, or for schemes by layer.
SchemeLike = str | Scheme | SchemeMap | Mapping[Any, Any]


def get(identifier: SchemeLike) -> Scheme | SchemeMap:
    """Return the scheme, or the schemes by layer, that something stands for.

    Args:
        identifier: A known name; a scheme, or a mapping of its settings; or a mapping of patterns
            and `"default"` to schemes, see `SchemeMap`.

    Raises:
        ValueError: If a name or a setting is not known; the message lists the known ones.
        TypeError: If `identifier` is something else.
    """
    if isinstance(identifier, (Scheme, SchemeMap)):
        return identifier
    if isinstance(identifier, Mapping):
        settings = {field.name for field in fields(Scheme)}
        plain = (str, Scheme, Mapping, type(None))
        if any(key in settings for key in identifier) or any(
            not isinstance(value, plain) for value in identifier.values()
        ):
            return Scheme.from_config(identifier)
        entries = {key: value for key, value in identifier.items() if key != "default"}
        return SchemeMap(identifier.get("default", Scheme()), tuple(entries.items()))
    if not isinstance(identifier, str):
        raise TypeError(
            "A scheme is a name, a `Scheme`, or a mapping of layers to schemes. Received: "
            f"{identifier!r}"
        )
    if identifier not in SCHEMES:
        hint = did_you_mean(identifier, SCHEMES)
        raise ValueError(
            f"Unknown quantization scheme.{hint} Known: {sorted(SCHEMES)}. Received: {identifier!r}"
        )
    return SCHEMES[identifier]


def _layer_scheme(pattern: Pattern, scheme: Any) -> Scheme | None:
    if scheme is None or scheme == FLOAT:
        return None
    found = get(scheme)
    if isinstance(found, SchemeMap):
        raise ValueError(
            "A map of schemes holds no further maps: the value of a pattern is a scheme or None. "
            f"Received: {pattern!r}: {scheme!r}"
        )
    return found

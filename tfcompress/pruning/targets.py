"""Finding the weights of a model that magnitude pruning may remove, and why not the others."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress.graph import keras_internals
from tfcompress.graph.selection import Pattern, Patterns, as_patterns, matches, unmatched_error
from tfcompress.pruning.rules import pruning_rule

_NORMALIZATION = tuple(
    getattr(keras.layers, name)
    for name in (
        "BatchNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "Normalization",
        "RMSNormalization",
        "UnitNormalization",
    )
    if hasattr(keras.layers, name)
)


@dataclass(frozen=True, eq=False)
class PruningTarget:
    """A weight to prune.

    Attributes:
        name: Name of the layer and of the weight in it, such as `"conv1/kernel"`; unique in the
            model.
        layer: The layer that owns the weight.
        variable: The weight, a `keras.Variable`.
        layer_name: `name` without its last part.
    """

    name: str
    layer: keras.layers.Layer
    variable: keras.Variable

    @property
    def layer_name(self) -> str:
        """Name of the layer, such as `"conv1"` or `"lstm/lstm_cell"`."""
        return self.name.rpartition("/")[0]

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.variable.shape)


@dataclass(frozen=True, eq=False)
class SkippedWeight:
    """A weight that is not pruned.

    Attributes:
        name: Name of the layer and of the weight in it.
        layer: The layer that owns the weight, or that is not built yet.
        variable: The weight; None for a layer that is not built.
        reason: Why it is not pruned.
    """

    name: str
    layer: keras.layers.Layer
    variable: keras.Variable | None
    reason: str


@dataclass(frozen=True, eq=False)
class _Place:
    """A layer, and the layers around it from the outermost to the nearest."""

    layer: keras.layers.Layer
    owners: tuple[keras.layers.Layer, ...]

    def name(self, whole: bool = False) -> str:
        """Names joined by "/". Models and wrappers are left out unless `whole`."""
        shown = [
            owner.name
            for owner in self.owners
            if whole or not isinstance(owner, keras.Model | keras.layers.Wrapper)
        ]
        return "/".join([*shown, self.layer.name])


@dataclass(eq=False)
class _Candidate:
    place: _Place
    variable: keras.Variable
    attribute: str
    # "wanted"; "on_request": if `include` names the layer; "by_own_name": if `include` names this
    # very weight, because naming the layer means its other weights; "never".
    standing: str
    reason: str = ""
    name: str = field(default="", init=False)

    def matching(self, patterns: Sequence[Pattern] | None) -> Pattern | None:
        """The first pattern that names the weight, its layer or a layer around it."""
        layer_name = self.name.rpartition("/")[0]
        for layer in (self.place.layer, *reversed(self.place.owners)):
            aliases = (self.name, layer_name) if layer is self.place.layer else ()
            found = matches(layer.name, layer, patterns, *aliases)
            if found is not None:
                return found
        return None

    def named_itself(self, patterns: Sequence[Pattern]) -> bool:
        """Whether a pattern names this weight and not its whole layer."""
        layer_name = self.name.rpartition("/")[0]
        return any(
            re.fullmatch(pattern, self.name) and not re.fullmatch(pattern, layer_name)
            for pattern in patterns
            if isinstance(pattern, str)
        )


def prunable_weights(
    model: keras.Model,
    include: Patterns = None,
    exclude: Patterns = None,
    argument: str = "include",
) -> tuple[list[PruningTarget], list[SkippedWeight]]:
    """Split the weights of a model into those to prune and those not to, with the reasons.

    Pruned are the kernels of dense, convolution, transposed convolution, einsum and recurrent
    layers, the pointwise kernels of separable convolutions, embeddings, and the projections of
    attention layers, wherever they are nested; a shared layer counts once. Biases, normalization
    parameters and frozen weights never are. Depthwise kernels, and the weights of layer types that
    have no rule, are pruned only if `include` names them.

    Args:
        model: A built model. It may be frozen in parts, nested or subclassed.
        include: Prune only these: layer names, regular expressions that the whole name must match,
            layer classes or their names, or names of weights (`"conv1/kernel"`). A name or class of
            an enclosing layer or nested model stands for everything in it. All if None.
        exclude: Do not prune these; wins over `include`.
        argument: What the user gave `include` as, for errors and reasons. Defaults to `"include"`.

    Returns:
        The targets and the skipped weights, each in the order of the model's layers.

    Raises:
        ValueError: If the model is not built, or a pattern is malformed or matches no layer.

    Example:

    ```python
    targets, skipped = prunable_weights(model, exclude="logits")
    for weight in skipped:
        print(weight.name, weight.reason)
    ```
    """
    included = as_patterns(include, argument)
    excluded = as_patterns(exclude, "exclude")
    # The model itself is the context of every name, not a part of it.
    places = [_Place(place.layer, place.owners[1:]) for place in _places(model, (), set())]
    if not model.built or not model.weights:
        raise ValueError(
            f"The model {model.name!r} has no weights yet: it was never built. Start it with a "
            "`keras.Input`, call `model.build(input_shape)`, or call it on one batch, before "
            "pruning or planning."
        )
    trainable = {id(variable) for variable in model.trainable_variables}
    candidates = [candidate for place in places for candidate in _candidates(place, trainable)]
    _name_uniquely(candidates)
    for name, patterns in ((argument, included), ("exclude", excluded)):
        for pattern in patterns or ():
            _check_matched(name, pattern, candidates, places)

    targets, skipped = [], []
    for candidate in candidates:
        reason = _skip_reason(candidate, included, excluded, argument)
        place = candidate.place
        if reason is None:
            targets.append(PruningTarget(candidate.name, place.layer, candidate.variable))
        else:
            skipped.append(SkippedWeight(candidate.name, place.layer, candidate.variable, reason))
    skipped.extend(
        SkippedWeight(place.name(), place.layer, None, "the layer is not built")
        for place in places
        if not place.layer.built and not place.layer.weights
    )
    return targets, skipped


def every_weight(model: keras.Model) -> dict[int, PruningTarget]:
    """Every weight of a model as one to prune, also what never is, by `id(variable)`."""
    targets, skipped = prunable_weights(model)
    others = [PruningTarget(s.name, s.layer, s.variable) for s in skipped if s.variable is not None]
    return {id(target.variable): target for target in (*targets, *others)}


def _skip_reason(
    candidate: _Candidate,
    included: Sequence[Pattern] | None,
    excluded: Sequence[Pattern] | None,
    argument: str,
) -> str | None:
    if candidate.standing == "never":
        return candidate.reason
    unwanted = candidate.matching(excluded)
    if unwanted is not None:
        return f"excluded by {_shown(unwanted)}"
    if included is None:
        return None if candidate.standing == "wanted" else candidate.reason
    wanted = candidate.matching(included)
    if wanted is None:
        return f"not in `{argument}`"
    if candidate.standing == "by_own_name" and not candidate.named_itself(included):
        return candidate.reason
    return None


def _shown(pattern: Pattern) -> str:
    return repr(pattern.__name__ if isinstance(pattern, type) else pattern)


def _places(
    layer: keras.layers.Layer, owners: tuple[keras.layers.Layer, ...], seen: set[int]
) -> Iterator[_Place]:
    """Yield each layer once, with the layers around the first place it is found in."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield _Place(layer, owners)
    for sublayer in keras_internals.sublayers(layer):
        yield from _places(sublayer, (*owners, layer), seen)


def _candidates(place: _Place, trainable: set[int]) -> Iterator[_Candidate]:
    layer = place.layer
    inner = {id(weight) for sub in keras_internals.sublayers(layer) for weight in sub.weights}
    wanted, on_request = _ruled_attributes(layer)
    rule = pruning_rule(layer)
    for variable in layer.weights:
        if id(variable) in inner:
            continue
        attribute = wanted.get(id(variable)) or on_request.get(id(variable)) or variable.name
        reason = _never_reason(layer, variable, id(variable) in trainable)
        if reason:
            yield _Candidate(place, variable, attribute, "never", reason)
        elif id(variable) in wanted:
            yield _Candidate(place, variable, attribute, "wanted")
        elif id(variable) in on_request:
            standing = "by_own_name" if wanted else "on_request"
            yield _Candidate(place, variable, attribute, standing, rule.reason if rule else "")
        else:
            yield _Candidate(
                place,
                variable,
                attribute,
                "on_request",
                f"no pruning rule for {type(layer).__name__}: name the layer in `include`, or "
                "give it a `get_prunable_weights` method",
            )


def _ruled_attributes(layer: keras.layers.Layer) -> tuple[dict[int, str], dict[int, str]]:
    """Attribute names of the weights to prune, and to prune on request, by variable identity."""
    named = getattr(layer, "get_prunable_weights", None)
    if callable(named):
        return {id(variable): variable.name for variable in named()}, {}
    rule = pruning_rule(layer)
    if rule is None:
        return {}, {}
    return _variables_at(layer, rule.attributes), _variables_at(layer, rule.on_request)


def _variables_at(layer: keras.layers.Layer, attributes: Sequence[str]) -> dict[int, str]:
    # Not every attribute exists before `build`, and Keras' `kernel` properties raise until then.
    found: dict[int, str] = {}
    if layer.built:
        for attribute in attributes:
            value: Any = getattr(layer, attribute, None)
            if isinstance(value, keras.Variable):
                found[id(value)] = attribute
    return found


def _never_reason(
    layer: keras.layers.Layer, variable: keras.Variable, trainable: bool
) -> str | None:
    if isinstance(layer, _NORMALIZATION):
        return "normalization parameter"
    if "bias" in variable.name:
        return "bias: few values, and no file gets smaller by their zeros"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"dtype {variable.dtype}: only floating-point weights are pruned"
    if not trainable:
        return "frozen: not trainable"
    if len(variable.shape) < 2:
        return "one value per channel"
    return None


def _name_uniquely(candidates: Sequence[_Candidate]) -> None:
    short = [f"{candidate.place.name()}/{candidate.attribute}" for candidate in candidates]
    counts = Counter(short)
    taken: Counter[str] = Counter()
    for candidate, name in zip(candidates, short):
        if counts[name] > 1:
            name = f"{candidate.place.name(whole=True)}/{candidate.attribute}"
        taken[name] += 1
        candidate.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _check_matched(
    argument: str, pattern: Pattern, candidates: Sequence[_Candidate], places: Sequence[_Place]
) -> None:
    if any(candidate.matching((pattern,)) is not None for candidate in candidates):
        return
    if any(matches(place.layer.name, place.layer, pattern) for place in places):
        return
    inner = [place.layer for place in places]
    names = [layer.name for layer in inner] + [candidate.name for candidate in candidates]
    raise unmatched_error(argument, pattern, names, [type(layer).__name__ for layer in inner])

"""Choosing layers by name, regular expression or class."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

Pattern = str | type
Patterns = Pattern | Sequence[Pattern] | None


def as_patterns(patterns: Patterns, argument: str = "include") -> tuple[Pattern, ...] | None:
    """Normalise one pattern or several to a tuple.

    Args:
        patterns: A layer name, a regular expression that the whole name must match, the name of a
            layer class, a layer class, a sequence of these, or None for "no restriction".
        argument: Name of the argument, for the error messages.

    Returns:
        The patterns, or None.

    Raises:
        ValueError: If the sequence is empty, a pattern is neither a string nor a class, is an
            empty string, or is neither a plain name nor a valid regular expression.
    """
    if patterns is None:
        return None
    entries = (patterns,) if isinstance(patterns, str | type) else tuple(patterns)
    if not entries:
        raise ValueError(
            f"`{argument}` must name at least one layer; use None for no restriction. "
            f"Received: {argument}={patterns!r}"
        )
    for entry in entries:
        if isinstance(entry, type):
            continue
        if not isinstance(entry, str) or not entry:
            raise ValueError(
                f"`{argument}` must hold layer names, regular expressions or layer classes. "
                f"Received: {entry!r} of type {type(entry).__name__}"
            )
        try:
            re.compile(entry)
        except re.error as error:
            raise ValueError(
                f"`{argument}` holds a pattern that is not a valid regular expression ({error}). "
                f"Received: {entry!r}"
            ) from error
    return entries


def matches(
    layer_name: str, layer: keras.layers.Layer, patterns: Patterns, *aliases: str
) -> Pattern | None:
    """Find the first pattern that names a layer.

    A class matches its subclasses too, by object or by name. A wrapper (`keras.layers.Wrapper`)
    also answers to the classes and the name of the layer inside it.

    Args:
        layer_name: Name the layer goes by.
        layer: The layer.
        patterns: See `as_patterns`. None matches nothing.
        *aliases: Further names the layer goes by.

    Returns:
        The pattern, which is truthy, or None if none matches.

    Example:

    ```python
    matches("conv1", layer, ["conv.*", keras.layers.Dense])    # "conv.*"
    ```
    """
    names = {layer_name, *aliases}
    classes = set(type(layer).__mro__)
    inner = getattr(layer, "layer", None)
    if isinstance(layer, keras.layers.Wrapper) and isinstance(inner, keras.layers.Layer):
        names.add(inner.name)
        classes.update(type(inner).__mro__)
    class_names = {candidate.__name__ for candidate in classes}
    for pattern in as_patterns(patterns) or ():
        if isinstance(pattern, type):
            if pattern in classes:
                return pattern
        elif (
            pattern in names
            or pattern in class_names
            or any(re.fullmatch(pattern, name) for name in names)
        ):
            return pattern
    return None


def select(
    layers: Iterable[keras.layers.Layer], include: Patterns = None, exclude: Patterns = None
) -> list[keras.layers.Layer]:
    """Keep the layers that `include` names (all if None) and `exclude` does not.

    Args:
        layers: Layers to choose from.
        include: Patterns of layers to keep; see `as_patterns`.
        exclude: Patterns of layers to leave out; wins over `include`.

    Returns:
        The chosen layers, in their order.

    Raises:
        ValueError: If a pattern is malformed or matches none of the layers.
    """
    candidates = list(layers)
    included = as_patterns(include, "include")
    excluded = as_patterns(exclude, "exclude")
    for argument, patterns in (("include", included), ("exclude", excluded)):
        for pattern in patterns or ():
            if not any(matches(layer.name, layer, pattern) for layer in candidates):
                raise unmatched_error(
                    argument,
                    pattern,
                    [layer.name for layer in candidates],
                    [type(layer).__name__ for layer in candidates],
                )
    return [
        layer
        for layer in candidates
        if (included is None or matches(layer.name, layer, included))
        and not (excluded and matches(layer.name, layer, excluded))
    ]


def unmatched_error(
    argument: str, pattern: Pattern, names: Iterable[str], class_names: Iterable[str]
) -> ValueError:
    """Build the error for a pattern that matches nothing, naming what is near.

    Args:
        argument: Name of the argument the pattern was given in.
        pattern: The pattern.
        names: Names that could have been given.
        class_names: Class names that could have been given.

    Returns:
        The exception, to be raised by the caller.
    """
    text = pattern.__name__ if isinstance(pattern, type) else pattern
    known = list(dict.fromkeys(names))
    classes = list(dict.fromkeys(class_names))
    near = _near(text, [*known, *classes])
    if near:
        hint = f"Did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        hint = f"Layers: {shown or 'none'}. Classes: {', '.join(sorted(classes)) or 'none'}."
    return ValueError(f"`{argument}` matches no layer. Received: {argument}={text!r}. {hint}")


def _near(text: str, known: Sequence[str]) -> list[str]:
    by_case: dict[str, str] = {}
    for name in known:
        by_case.setdefault(name.lower(), name)
    found = difflib.get_close_matches(text.lower(), list(by_case), n=3, cutoff=0.6)
    return [by_case[name] for name in found]


def pattern_config(patterns: tuple[Pattern, ...] | None) -> list[str] | None:
    """The patterns as strings, for a `get_config`: a class becomes its name."""
    if patterns is None:
        return None
    config: list[Any] = [p.__name__ if isinstance(p, type) else p for p in patterns]
    return config

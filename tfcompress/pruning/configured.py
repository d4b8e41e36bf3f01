"""Objects that stand for a choice: made from a name, an object or a config, and comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

import keras

from tfcompress.hints import did_you_mean


class Configured:
    """A choice with arguments, which it returns as its config; equal when these are."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build the object that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Configured)
            and type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self) -> int:
        return hash((type(self).__name__, tuple(sorted(self.get_config().items()))))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


Choice = TypeVar("Choice", bound=Configured)


def choose(
    identifier: Any, base: type[Choice], known: Mapping[str, type[Choice]], argument: str
) -> Choice:
    """Return the object that a name, a config or an object stands for.

    Args:
        identifier: A key of `known`, an object of class `base`, or what `serialize` returned.
        base: Class of what is chosen.
        known: Classes by name, which can be made without arguments.
        argument: Name of the argument, for errors.

    Raises:
        ValueError: If `identifier` is none of these; near names are given.
    """
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, dict):
        made = keras.saving.deserialize_keras_object(identifier)
        if isinstance(made, base):
            return made
    if isinstance(identifier, str):
        if identifier in known:
            return known[identifier]()
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, known))}, or a `{base.__name__}`. "
            f"Received: {argument}={identifier!r}.{did_you_mean(identifier.lower(), known)}"
        )
    raise ValueError(
        f"`{argument}` must be a name, a `{base.__name__}` or a config of one. "
        f"Received: {argument}={identifier!r} of type {type(identifier).__name__}"
    )


def serialize(choice: Configured) -> dict[str, Any]:
    """The config of an object, which `choose` turns back into an equal one."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(choice)
    return config

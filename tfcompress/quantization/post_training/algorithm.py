"""What a post-training algorithm is, and the registry of those that have a name."""

from __future__ import annotations

import difflib
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import keras
import numpy as np


@dataclass(frozen=True)
class LayerOutcome:
    """What an algorithm did to one layer.

    Attributes:
        layer: Name of the layer, or of two layers joined by an arrow.
        figures: What was measured, by name; empty where nothing was done.
        skipped: Why nothing was done; empty where something was.
    """

    layer: str
    figures: Mapping[str, float]
    skipped: str = ""


@dataclass(frozen=True)
class Outcome:
    """What an algorithm did to a model.

    Attributes:
        algorithm: Its name.
        layers: One entry for each layer that it looked at.
        note: One sentence on all of it.
    """

    algorithm: str
    layers: tuple[LayerOutcome, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        done = [entry for entry in self.layers if not entry.skipped]
        lines = [f"{self.algorithm}: {len(done)} of {len(self.layers)} done. {self.note}".rstrip()]
        reasons: dict[str, list[str]] = {}
        for entry in self.layers:
            if entry.skipped:
                reasons.setdefault(entry.skipped, []).append(entry.layer)
        lines += [f"  not {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Algorithm(ABC):
    """One way to lose less by quantization without training. Subclass, override, register.

    An algorithm acts before quantization, on a float model that it may change without changing what
    the model computes, or after it, on the quantized model beside the float one; or both.
    """

    # The name by which it is called.
    name: ClassVar[str]

    def prepare(self, model: keras.Model, samples: Mapping[str, np.ndarray]) -> Outcome | None:
        """Change the float model in place, before it is quantized.

        Args:
            model: A flat Functional model in float32 whose batch normalizations are folded.
            samples: Calibration samples of shape (n, ...) by input name.

        Returns:
            What was done, or None where the algorithm has nothing to do at this point.
        """
        return None

    def refine(
        self, model: keras.Model, quantized: keras.Model, samples: Mapping[str, np.ndarray]
    ) -> Outcome | None:
        """Change the quantized model in place.

        Args:
            model: The float model that was quantized.
            quantized: The calibrated model that `quantize_aware` made of it.
            samples: Calibration samples of shape (n, ...) by input name.

        Returns:
            What was done, or None where the algorithm has nothing to do at this point.
        """
        return None

    def get_config(self) -> dict[str, Any]:
        """The name and the arguments that make an equal algorithm."""
        return {"name": self.name, **asdict(self)}


ALGORITHMS: dict[str, type[Algorithm]] = {}

# What stands for an algorithm.
AlgorithmLike = str | Mapping[str, Any] | Algorithm


def register(name: str) -> Callable[[type[Algorithm]], type[Algorithm]]:
    """Register an algorithm class under a name.

    Args:
        name: What `algorithms=` calls it.

    Returns:
        A class decorator.

    Example:

    ```python
    @register("zero_biases")
    @dataclass(frozen=True)
    class ZeroBiases(Algorithm):
        def prepare(self, model, samples):
            ...
    ```
    """

    def decorate(kind: type[Algorithm]) -> type[Algorithm]:
        kind.name = name
        ALGORITHMS[name] = kind
        return kind

    return decorate


def get_algorithm(identifier: AlgorithmLike) -> Algorithm:
    """Return the algorithm that a name, a config or an algorithm stands for.

    Args:
        identifier: A registered name; a mapping with such a `name` and arguments; or an algorithm.

    Raises:
        ValueError: If the name or an argument is not known; the message lists the known ones.
        TypeError: If `identifier` is something else.

    Example:

    ```python
    get_algorithm({"name": "adaround", "iterations": 4000})
    ```
    """
    if isinstance(identifier, Algorithm):
        return identifier
    if isinstance(identifier, str):
        identifier = {"name": identifier}
    if not isinstance(identifier, Mapping):
        raise TypeError(
            f"An algorithm is a name, a mapping or an `Algorithm`. Received: {identifier!r}"
        )
    arguments = dict(identifier)
    name = arguments.pop("name", None)
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(str(name), ALGORITHMS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown algorithm.{hint} Known: {sorted(ALGORITHMS)}. Received: {name!r}"
        )
    known = [field.name for field in fields(ALGORITHMS[name])]
    for key in arguments:
        if key not in known:
            raise ValueError(f"The algorithm {name!r} takes {known}. Received: {key!r}")
    return ALGORITHMS[name](**arguments)

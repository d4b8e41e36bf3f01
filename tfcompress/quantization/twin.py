"""The quantization-aware twin of a float model: same variables, with ranges of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.graph.keras_internals import KerasSaveable
from tfcompress.quantization import schemes
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of
from tfcompress.quantization.instrument import instrument_shared
from tfcompress.quantization.quantized_layer import QuantizedLayer

_ATTRIBUTE = "_tfcompress_quantization"


class QuantizedTwin(KerasSaveable):
    """The quantized form of a model, whose ranges are saved and restored with the model's weights.

    It hangs on the model, which saves it in `.keras` and `.weights.h5` files beside the weights:
    such files still load in plain Keras, which ignores the addition. It is no layer: the model's
    weights, layers and summary stay what they were.

    Args:
        model: A built float model.
        scheme: The scheme.

    Attributes:
        scheme: The scheme.
        plan: What was done to every tensor.
        step: Training steps done when the ranges were saved.
        restored: Whether ranges were read from a file since the flag was last cleared.

    Raises:
        ValueError: If the model is not built, cannot be traced or is quantization-aware already.
    """

    def __init__(self, model: keras.Model, scheme: schemes.Scheme | schemes.SchemeMap) -> None:
        self.scheme = scheme
        self.step = 0
        self.restored = False
        self._weights = tuple(map(id, model.weights))
        known = set(map(id, model.variables))
        strategy = getattr(model, "distribute_strategy", None)
        # Under a distribution strategy each replica then has its own copy of the ranges.
        with nullcontext() if strategy is None else strategy.scope():
            shared, self.plan = instrument_shared(model, scheme)
        self._parts = _Parts(shared, known)
        self._remembered: dict[bytes, list[np.ndarray]] = {}

    # Methods, not properties: Keras would save the layers that a property returns.

    def model(self) -> keras.Model:
        """The quantization-aware model that shares the variables of the float model."""
        return self._parts.model

    def variables(self) -> list[keras.Variable]:
        """The variables that the float model does not have: ranges, and whether they are set."""
        return list(self._parts.variables)

    def learned(self) -> list[keras.Variable]:
        """Those of `variables` that are trained by gradient."""
        return list(self._parts.learned)

    def accompany(self, variables: Sequence[keras.Variable]) -> None:
        """Save and restore further variables with the ranges: the state of their training.

        Args:
            variables: New ones. They take the values that a file, or those before them, had.
        """
        self._parts.accompany(variables)

    def start_scales(self) -> None:
        """Let learned scales of weights start from the weights of now."""
        for wrapper in self._parts.wrappers:
            wrapper.start_scales()

    def quantizers(self) -> list[ActivationQuantizer]:
        """All activation quantizers."""
        return self._parts.quantizers

    def wrappers(self) -> list[QuantizedLayer]:
        """All quantized layers."""
        return self._parts.wrappers

    def is_ready(self) -> bool:
        """Whether every quantizer has a range."""
        return all(quantizer.range is not None for quantizer in self._parts.quantizers)

    def belongs_to(self, model: keras.Model) -> bool:
        """Whether the twin was made for the weights that the model has now."""
        return self._weights == tuple(map(id, model.weights))

    def switch(self, ranges_frozen: bool = False, batchnorm_frozen: bool = False) -> None:
        """Freeze or thaw ranges and batch normalization for what is traced from now on."""
        for quantizer in self._parts.quantizers:
            quantizer.observing = not ranges_frozen
        for wrapper in self._parts.wrappers:
            wrapper.frozen = batchnorm_frozen

    def remember(self) -> None:
        """Note which ranges belong to the weights of now."""
        variables = self._parts.variables
        self._remembered[self._fingerprint()] = [ops.convert_to_numpy(v) for v in variables]

    def recall(self) -> None:
        """Take the ranges that belong to the weights of now, if they were noted.

        `EarlyStopping` brings weights of an earlier epoch back, without their ranges.
        """
        values = self._remembered.get(self._fingerprint()) if self._remembered else None
        if values is not None:
            self._assign(values)

    def _fingerprint(self) -> bytes:
        sums = [ops.sum(ops.cast(v.value, "float32")) for v in self._parts.trained]
        return np.asarray(ops.convert_to_numpy(ops.stack(sums))).tobytes() if sums else b""

    def reset(self) -> None:
        """Forget what was learned."""
        self.step = 0
        self._remembered.clear()
        self._assign(self._parts.initial)
        self._parts.restart()

    def _assign(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self._parts.variables, values, strict=True):
            variable.assign(value)

    def save_own_variables(self, store: Any) -> None:
        """Write the scheme, the step and the ranges into a weights file."""
        store["scheme"] = np.frombuffer(_scheme_text(self.scheme).encode(), np.uint8)
        store["step"] = np.int64(self.step)
        for index, variable in enumerate(self._parts.variables):
            store[f"range_{index}"] = ops.convert_to_numpy(variable)
        for index, value in enumerate(self._parts.training_state()):
            store[f"training_{index}"] = value

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote.

        A file without ranges brings weights that were not trained quantized, so it resets them.

        Raises:
            ValueError: If the file was saved from another architecture or with another scheme.
        """
        entries = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        self.reset()
        if not entries:
            return
        scheme = entries["scheme"].tobytes().decode()
        if scheme != _scheme_text(self.scheme):
            raise ValueError(
                f"The file's ranges were learned with another scheme than {self.scheme.name!r}. "
                f"Use the scheme that it was trained with. Received: {scheme}"
            )
        values = _numbered(entries, "range_")
        variables = self._parts.variables
        if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
            raise ValueError(
                "The file's ranges do not fit this model: it was saved from another architecture. "
                f"Received: {len(values)} range variables for a model with {len(variables)}"
            )
        self._assign(values)
        self._parts.resume(_numbered(entries, "training_"))
        self.step = int(entries["step"])
        self.restored = True

    def _obj_type(self) -> str:
        # Keras' saving walk accepts only its own kinds; this one saves nothing further by itself.
        return "Operation"

    def __repr__(self) -> str:
        return f"<QuantizedTwin {self.scheme.name}, {len(self._parts.quantizers)} quantizers>"


class _Parts:
    """The layers of a twin, out of sight of Keras' saving walk."""

    def __init__(self, model: keras.Model, known: set[int]) -> None:
        self.model = model
        self.variables = [v for v in model.variables if id(v) not in known]
        self.initial = [ops.convert_to_numpy(variable) for variable in self.variables]
        self.learned = [v for v in self.variables if v.trainable]
        self.trained = [v for v in model.trainable_variables if id(v) in known]
        self.quantizers = quantizers_of(model)
        self.wrappers = wrappers_of(model)
        self._training: list[keras.Variable] = []
        self._fresh: list[np.ndarray] = []
        self._loaded: list[np.ndarray] = []

    def accompany(self, variables: Sequence[keras.Variable]) -> None:
        """Let new variables take the place and the values of those of an earlier training."""
        values = self.training_state()
        self._training = list(variables)
        self._fresh = [ops.convert_to_numpy(variable) for variable in variables]
        self.resume(values)

    def training_state(self) -> list[np.ndarray]:
        """The values of the variables, or those that a file had for variables to come."""
        return [ops.convert_to_numpy(v) for v in self._training] or self._loaded

    def resume(self, values: list[np.ndarray]) -> None:
        """Take values that an earlier training had; those of another optimizer are left."""
        self._loaded = values
        if [v.shape for v in values] == [tuple(v.shape) for v in self._training]:
            for variable, value in zip(self._training, values, strict=True):
                variable.assign(value)

    def restart(self) -> None:
        """Forget an earlier training."""
        self.resume(self._fresh)
        self._loaded = []


class _SavedEntries(KerasSaveable):
    """Stands in for a twin to see whether a file has one, and with which scheme."""

    def __init__(self) -> None:
        self.entries: dict[str, np.ndarray] = {}

    def load_own_variables(self, store: Any) -> None:
        """Keep everything."""
        self.entries = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118

    def _obj_type(self) -> str:
        return "Operation"


def find_twin(model: keras.Model) -> QuantizedTwin | None:
    """The twin of a model that was given to `tfcompress.callbacks.QuantizationAwareTraining`.

    Args:
        model: A Keras model.

    Returns:
        The twin; None if the model never had one in this process, or has other weights since.
    """
    twin = getattr(model, _ATTRIBUTE, None)
    return twin if isinstance(twin, QuantizedTwin) and twin.belongs_to(model) else None


def quantized_form(model: keras.Model) -> keras.Model:
    """The model to export, strip or compare: the trained twin of a model, or the model itself.

    Args:
        model: A Keras model of any kind.

    Returns:
        If the model was trained with `tfcompress.callbacks.QuantizationAwareTraining`, the
        quantization-aware model that shares its variables, with the ranges that it learned.
        Otherwise `model`.

    Example:

    ```python
    quantized_form(model).predict(x)    # what the exported file will predict
    ```
    """
    twin = find_twin(model)
    if twin is None or not twin.is_ready():
        return model
    twin.recall()
    return twin.model()


def attach_twin(model: keras.Model, scheme: schemes.SchemeLike = "int8") -> QuantizedTwin:
    """Give a model a twin, or return the one it has.

    From then on saving the model, or its weights, saves the ranges, and loading weights restores
    them.

    Args:
        model: A built float model.
        scheme: A scheme or its name. A twin with another one is replaced. Defaults to `"int8"`.

    Returns:
        The twin.

    Raises:
        ValueError: If the model is not built, cannot be traced or is quantization-aware already, or
            the scheme is not known.
    """
    scheme = schemes.get(scheme)
    twin = find_twin(model)
    if twin is None or twin.scheme != scheme:
        twin = QuantizedTwin(model, scheme)
        setattr(model, _ATTRIBUTE, twin)
    return twin


def detach_twin(model: keras.Model) -> None:
    """Forget a model's ranges, so that it counts as a float model. The weights stay as they are."""
    if _ATTRIBUTE in model.__dict__:
        delattr(model, _ATTRIBUTE)


def restore_ranges(model: keras.Model, path: str | PathLike[str]) -> bool:
    """Read the learned ranges of a model again that was saved after training with the callback.

    `keras.models.load_model` reads a model as plain Keras knows it, without the ranges. Loading
    weights into a model in training with `tfcompress.callbacks.QuantizationAwareTraining`, as
    `BackupAndRestore` does, needs no such call.

    Args:
        model: The loaded model. Its weights are read from the file again.
        path: The `.keras` or `.weights.h5` file that it was loaded from.

    Returns:
        Whether the file has ranges. Only then `tfcompress.export` and others use them.

    Raises:
        ValueError: If the file's ranges do not fit the model.

    Example:

    ```python
    model = keras.models.load_model("best.keras")
    tfcompress.quantization.restore_ranges(model, "best.keras")
    tfcompress.export(model, "best.tflite")
    ```
    """
    saved = _SavedEntries()
    setattr(model, _ATTRIBUTE, saved)
    try:
        model.load_weights(path)
    finally:
        delattr(model, _ATTRIBUTE)
    if not saved.entries:
        return False
    config = json.loads(saved.entries["scheme"].tobytes().decode())
    attach_twin(model, keras.saving.deserialize_keras_object(config)).load_own_variables(
        saved.entries
    )
    return True


def _scheme_text(scheme: schemes.Scheme | schemes.SchemeMap) -> str:
    return json.dumps(keras.saving.serialize_keras_object(scheme), sort_keys=True)


def _numbered(entries: Mapping[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    count = sum(key.startswith(prefix) for key in entries)
    return [entries[f"{prefix}{index}"] for index in range(count)]

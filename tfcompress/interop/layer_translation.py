"""Keras 2 layers as Keras 3 layers: the same class, with the settings renamed that were renamed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfcompress.interop.legacy_activations import keras2_hard_sigmoid

CustomObjects = Mapping[str, Any]


class UnknownLayerError(ValueError):
    """A layer that has no equal in Keras 3."""


# Settings that do not change what a layer computes, or that Keras 3 finds out by itself.
_WITHOUT_EFFECT = frozenset(
    {"batch_input_shape", "build_config", "fused", "implementation", "input_length", "key_shape",
     "query_shape", "value_shape", "virtual_batch_size"}
)  # fmt: skip

# Settings that only some layers of Keras 3 have, with the only value that can be left out.
_WITHOUT_EFFECT_AT: dict[str, Any] = {
    "groups": 1,
    "output_padding": None,
    "ragged": False,
    "renorm": False,
    "sparse": False,
    "time_major": False,
}

_RENAMED: dict[str, dict[str, str]] = {"LeakyReLU": {"alpha": "negative_slope"}}

_CLASSES = {"SyncBatchNormalization": "BatchNormalization"}

_ACTIVATION_KEYS = ("activation", "recurrent_activation")


def translate_layer(layer: Any, custom_objects: CustomObjects) -> keras.layers.Layer:
    """Make the Keras 3 layer that a Keras 2 layer corresponds to, without its weights.

    Args:
        layer: A tf_keras layer that is no model and no tfmot wrapper.
        custom_objects: Keras 3 classes or functions by the names of the Keras 2 ones.

    Returns:
        A layer that is not built.

    Raises:
        UnknownLayerError: If there is none.
    """
    name = type(layer).__name__
    if name == "Lambda" and name not in custom_objects:
        raise UnknownLayerError(
            f"The layer '{layer.name}' is a Lambda: code that Keras 3 cannot be given. Replace it "
            "by a layer, or give `custom_objects={'Lambda': …}`, a Keras 3 layer class whose "
            "`from_config` takes its config."
        )
    try:
        return _make(name, layer.get_config(), custom_objects, type(layer).__module__)
    except UnknownLayerError:
        raise
    except Exception as error:
        raise UnknownLayerError(
            f"The layer '{layer.name}' ({name}) cannot be made in Keras 3: {error}. Replace it, or "
            f"give `custom_objects={{'{name}': …}}`, a Keras 3 layer class that takes its config."
        ) from error


def _make(
    name: str, config: dict[str, Any], custom_objects: CustomObjects, module: str
) -> keras.layers.Layer:
    if name in custom_objects:
        layer: keras.layers.Layer = custom_objects[name].from_config(config)
        return layer
    kind = getattr(keras.layers, _CLASSES.get(name, name), None)
    if kind is None or not _is_from_keras(module):
        raise UnknownLayerError(
            f"The layer '{config.get('name')}' of class {module}.{name} has no equal in Keras 3. "
            f"Give `custom_objects={{'{name}': …}}`, a Keras 3 layer class that takes its config, "
            "or convert the model as it is: `tfcompress.convert` traces it."
        )
    with keras.saving.custom_object_scope(dict(custom_objects)):
        layer = kind.from_config(_translate_config(name, kind, config, custom_objects))
    return layer


def _is_from_keras(module: str) -> bool:
    return module.split(".")[0] in ("tf_keras", "keras")


def _translate_config(
    name: str, kind: type, config: Mapping[str, Any], custom_objects: CustomObjects
) -> dict[str, Any]:
    renamed = _RENAMED.get(name, {})
    accepted = _parameters(kind)
    translated = {}
    for key, value in config.items():
        target = renamed.get(key, key)
        if target not in accepted:
            _check_droppable(name, key, value, config)
            continue
        translated[target] = _translate_value(key, value, custom_objects)
    if name == "SyncBatchNormalization":
        translated["synchronized"] = True
    if "dtype" in translated:
        translated["dtype"] = _policy_name(config["dtype"])
    if "name" in translated:
        # Keras 3 builds paths of variables with slashes.
        translated["name"] = str(translated["name"]).replace("/", "_")
    return translated


def _check_droppable(name: str, key: str, value: Any, config: Mapping[str, Any]) -> None:
    if key in _WITHOUT_EFFECT or key.endswith("_initializer") or value is None:
        return
    if key in _WITHOUT_EFFECT_AT and value == _WITHOUT_EFFECT_AT[key]:
        return
    if value == _legacy_defaults(name).get(key, inspect.Parameter.empty):
        return
    raise UnknownLayerError(
        f"The layer '{config.get('name')}' ({name}) has a setting that Keras 3 does not know. "
        f"Received: {key}={value!r}"
    )


def _translate_value(key: str, value: Any, custom_objects: CustomObjects) -> Any:
    """A setting of a layer, as Keras 3 wants it."""
    if key in _ACTIVATION_KEYS and value == "hard_sigmoid":
        return keras.saving.serialize_keras_object(keras2_hard_sigmoid)
    if isinstance(value, Mapping) and {"class_name", "config"} <= set(value):
        return _translate_object(key, value, custom_objects)
    if isinstance(value, list | tuple):
        items = [_translate_value("", item, custom_objects) for item in value]
        # Keras 2 keeps the axis of a normalization as a list of one.
        return items[0] if key == "axis" and len(items) == 1 else items
    return value


def _translate_object(key: str, value: Mapping[str, Any], custom_objects: CustomObjects) -> Any:
    name, config = value["class_name"], value["config"]
    if name == "QuantizeAwareActivation":
        # tfmot puts it in the place of the activation that the layer has.
        return _translate_value(key, config["activation"], custom_objects)
    if name == "NoOpActivation":
        return "linear"
    module = str(value.get("module", "keras.layers"))
    if hasattr(keras.layers, name) and (module == "keras.layers" or key in ("layer", "cell")):
        kind = getattr(keras.layers, name)
        config = _translate_config(name, kind, config, custom_objects)
        return {"module": "keras.layers", "class_name": name, "config": config,
                "registered_name": name}  # fmt: skip
    if isinstance(config, Mapping):
        config = {k: _translate_value(k, v, custom_objects) for k, v in config.items()}
    return {**value, "config": config}


def _parameters(kind: type) -> set[str]:
    """Names of the arguments that a layer class takes, those of its base classes among them."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base):
            names |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return names - {"self", "args", "kwargs"}


def _legacy_defaults(name: str) -> dict[str, Any]:
    kind: Callable[..., Any] | None = getattr(sys.modules["tf_keras"].layers, name, None)
    if kind is None:
        return {}
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _policy_name(dtype: Any) -> Any:
    if isinstance(dtype, Mapping):
        return dtype.get("config", {}).get("name", "float32")
    return getattr(dtype, "name", dtype)

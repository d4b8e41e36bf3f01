"""What is looked at in a model file before anything in it is loaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

# More than any model that fits into a TFLite file, whose offsets end at 2 GB.
_MOST_BYTES = 16 << 30
_MOST_CONFIG_BYTES = 256 << 20

# Class names by which Keras saves Python code.
_CODE = frozenset({"Lambda", "__lambda__"})

# Operators of TensorFlow that touch files or run Python while a graph runs.
_SIDE_EFFECTS = frozenset(
    {"EagerPyFunc", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile"}
)


# Classes that hold the ranges of activations, of tfcompress and of tfmot.
_QUANTIZERS = ("tfcompress>ActivationQuantizer", "QuantizeWrapper")

# Where a `.keras` file has its weights, and among them the ranges of `QuantizedTwin`.
_WEIGHTS, _TWIN = "model.weights.h5", "_tfcompress_quantization"


@dataclass(frozen=True)
class Header:
    """What a Keras file says about itself.

    Args:
        keras_version: Version of Keras that wrote it; empty where it does not say.
        config: The config of the model, or None where there is none.
    """

    keras_version: str = ""
    config: Any = None

    @property
    def is_quantization_aware(self) -> bool:
        """Whether the model was trained quantized, by tfcompress or tfmot, and has ranges."""
        return any(name in str(self.config) for name in _QUANTIZERS)


def is_saved_model(path: Path) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def refuse_own_source(source: Any, path: str | PathLike[str]) -> None:
    """Refuse to write a file over the model that it is made from.

    Args:
        source: A model, or the path of one.
        path: The file to write.

    Raises:
        ValueError: If they are the same file, or the file would lie in a SavedModel.
    """
    if not isinstance(source, str | PathLike):
        return
    given, target = Path(source).expanduser().resolve(), Path(path).expanduser().resolve()
    same = given == target or (given.exists() and target.exists() and given.samefile(target))
    if same or (is_saved_model(given) and given in target.parents):
        relation = "is the source" if same else "lies in the folder of the source"
        raise ValueError(
            f"The output {relation}, which must stay as it is. Give the path of another file. "
            f"Received: source={str(source)!r}, path={str(path)!r}"
        )


def refuse_signature(source: Any, signature: str | None) -> None:
    """Refuse the name of a signature for what has none to choose from.

    Args:
        source: A model, or the path of one.
        signature: What was asked for, or None.

    Raises:
        ValueError: If `source` is no folder.
    """
    is_path = isinstance(source, str | PathLike)
    if signature is None or (is_path and not Path(source).expanduser().is_file()):
        return
    given = str(source) if is_path else f"{type(source).__module__}.{type(source).__name__}"
    raise ValueError(
        "`signature` (`--signature`) chooses among the signatures of a SavedModel; Keras models, "
        "their files and `.tflite` files have none to choose from. Leave it out, or give the "
        f"folder of a SavedModel. Received: signature={signature!r} for {given}"
    )


def check_size(path: Path) -> None:
    """Refuse what is larger than any model that can be converted.

    Args:
        path: A model file or a SavedModel folder.

    Raises:
        ValueError: If it is too large; a `.keras` file also if it unpacks to that much.
    """
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    size = sum(entry.stat().st_size for entry in files)
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    if size > _MOST_BYTES:
        raise ValueError(
            f"A model of more than {_MOST_BYTES >> 30} GB cannot become a TFLite file, which ends "
            f"at 2 GB. Received: {path}, {size:,} bytes unpacked"
        )


def read_header(path: Path) -> Header:
    """Read what a `.keras` or `.h5` file says about itself, without loading the model.

    Args:
        path: The file.

    Returns:
        The header; empty if the file is damaged, which loading it will report.

    Raises:
        ValueError: If the config is too large to be one.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            texts = {}
            for name in ("config.json", "metadata.json"):
                if name not in archive.namelist():
                    return Header()
                _check_config_size(path, archive.getinfo(name).file_size)
                texts[name] = archive.read(name)
        version = json.loads(texts["metadata.json"]).get("keras_version", "")
        return Header(str(version), json.loads(texts["config.json"]))
    import h5py

    if not h5py.is_hdf5(path):
        return Header()
    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
    if config is None:
        return Header(_text(version))
    _check_config_size(path, len(config))
    return Header(_text(version), json.loads(config))


def has_callback_ranges(path: Path) -> bool:
    """Whether a file has ranges that `callbacks.QuantizationAwareTraining` learned.

    Args:
        path: A file of any kind.

    Returns:
        The answer; False if the file is damaged, which loading it will report.
    """
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return False
    import h5py

    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(_WEIGHTS) as content,
            h5py.File(content, "r") as weights,
        ):
            return _TWIN in weights
    except (KeyError, OSError, zipfile.BadZipFile):
        return False


def refuse_code(path: Path, header: Header) -> None:
    """Refuse a Keras file that holds Python code.

    Args:
        path: The file.
        header: What `read_header` found.

    Raises:
        ValueError: If there are Lambda layers or functions in it.
    """
    found = list(dict.fromkeys(_code_in(header.config)))
    if found:
        raise ValueError(
            f"The file holds Python code, which is not run: {', '.join(found[:8])}. Save the model "
            "without Lambda layers, or as a SavedModel by `model.export(folder)`. If you trust "
            f"whoever wrote it, pass `safe_mode=False` (`--unsafe`). Received: {path}"
        )


def read_saved_model(folder: Path) -> Any:
    """Parse the graphs of a SavedModel, without loading it.

    Args:
        folder: The SavedModel.

    Returns:
        A `SavedModel` protocol buffer.

    Raises:
        ValueError: If it is damaged.
    """
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    binary = folder / "saved_model.pb"
    try:
        if binary.exists():
            proto.ParseFromString(binary.read_bytes())
        else:
            text_format.Parse((folder / "saved_model.pbtxt").read_text(), proto)
    except (message.DecodeError, text_format.ParseError) as error:
        raise ValueError(f"The SavedModel cannot be loaded: {error}. Received: {folder}") from error
    if not proto.meta_graphs:
        raise ValueError(f"The SavedModel cannot be loaded: it is empty. Received: {folder}")
    return proto


def is_from_tensorflow_1(proto: Any) -> bool:
    """Whether a SavedModel has no objects, only a graph with a session's variables."""
    return not proto.meta_graphs[0].HasField("object_graph_def")


def refuse_side_effects(proto: Any, source: str) -> None:
    """Refuse a SavedModel whose graph reads or writes files, or runs Python.

    Args:
        proto: What `read_saved_model` returned.
        source: The SavedModel's folder, for the message.

    Raises:
        ValueError: If it holds such an operator.
    """
    found = []
    for graph in (meta.graph_def for meta in proto.meta_graphs):
        bodies = (body.node_def for body in graph.library.function)
        for nodes in (graph.node, *bodies):
            found += [f"{node.name} ({node.op})" for node in nodes if node.op in _SIDE_EFFECTS]
    if found:
        raise ValueError(
            "The SavedModel reads or writes files, or runs Python, while it runs: "
            f"{', '.join(found[:8])}. No TFLite file can do so: leave that out of the signature. "
            "If you trust whoever wrote it and the signature does not need them, pass "
            f"`safe_mode=False` (`--unsafe`). Received: {source}"
        )


def _code_in(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        name = config.get("class_name")
        if name in _CODE:
            inner = config.get("config")
            yield str(inner.get("name", name)) if isinstance(inner, dict) else str(name)
            return
        for value in config.values():
            yield from _code_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from _code_in(value)


def _check_config_size(path: Path, size: int) -> None:
    if size > _MOST_CONFIG_BYTES:
        raise ValueError(
            f"The config of a model has at most {_MOST_CONFIG_BYTES >> 20} MB. "
            f"Received: {path}, {size:,} bytes"
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

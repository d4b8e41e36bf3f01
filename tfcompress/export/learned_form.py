"""What training with a callback learned beside a model, as a model."""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path
from typing import Any

from tfcompress.export.source_checks import (
    check_size,
    has_callback_ranges,
    read_header,
    refuse_code,
)
from tfcompress.export.worker import ConversionError


def learned_form(source: Any, safe_mode: bool = True) -> Any:
    """Find the ranges that `tfcompress.callbacks.QuantizationAwareTraining` learned.

    Args:
        source: Anything that `tfcompress.convert` takes.
        safe_mode: Whether a file that holds Python code is refused. Defaults to True.

    Returns:
        The quantization-aware model, if `source` is a model that was trained with the callback, or
        a `.keras` file of one. Otherwise `source`.

    Raises:
        ValueError: If a file with such ranges is too large, holds Python code in safe mode, or its
            ranges do not fit its model.
        ConversionError: If it cannot be loaded.
    """
    if not isinstance(source, str | PathLike):
        imported = sys.modules.get("keras")
        if imported is None or not isinstance(source, imported.Model):
            return source
        from tfcompress.quantization.twin import quantized_form

        return quantized_form(source)
    path = Path(source).expanduser()
    if not path.is_file() or not has_callback_ranges(path):
        return source
    check_size(path)
    if safe_mode:
        refuse_code(path, read_header(path))

    import keras

    from tfcompress.quantization.twin import quantized_form, restore_ranges

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=safe_mode)
    except Exception as error:
        raise ConversionError(f"The Keras file cannot be loaded: {error}") from error
    restore_ranges(model, path)
    form = quantized_form(model)
    # Saved before quantization began, it has no ranges yet.
    return source if form is model else form

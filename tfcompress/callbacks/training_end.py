"""Acting when a training has ended for every callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def after_other_callbacks(model: keras.Model, params: Any, action: Callable[[], None]) -> None:
    """Run `action` when the training has ended for the other callbacks too.

    `EarlyStopping` and others put earlier weights back when the training ends, which may be after
    the turn of the callback that calls this. `History` is called after the callbacks that the user
    lists.

    Args:
        model: The model.
        params: The callback's `params`.
        action: What to do. Done at once where the training has no `History`.
    """
    history = getattr(model, "history", None)
    # The params tell the History of this training from one that an earlier `fit` left.
    if not isinstance(history, keras.callbacks.History) or history.params is not params:
        action()
        return

    def on_train_end(logs: dict[str, Any] | None = None) -> None:
        del history.on_train_end
        history.on_train_end(logs)
        action()

    history.on_train_end = on_train_end

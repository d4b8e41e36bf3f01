"""When quantization starts, and when what it learned is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from absl import logging

from tfcompress.callbacks.quantization_logs import quantization_logs
from tfcompress.callbacks.training_clock import TrainingClock
from tfcompress.graph.keras_internals import deployed_part
from tfcompress.quantization.calibrate import quantizers_of, wrappers_of


class QuantizationSchedule(keras.callbacks.Callback):
    """Delays quantization, and freezes ranges and batch normalization, during `fit`.

    Before `begin` a quantization-aware model trains in float while its quantizers watch the ranges;
    validation is in float too. Frozen ranges stay as they are. Frozen batch normalization uses its
    moving statistics and no longer updates them, as the exported model will; gamma and beta go on
    training.

    The logs of each epoch, and so Keras' progress bar and `History`, gain the state at its end as 0
    or 1: `quantizing`, and `ranges_frozen` and `batchnorm_frozen` where they freeze.

    A position in the training is a number of steps (int) or a fraction of all planned steps (float
    in [0, 1]); None means never. A `fit` with `initial_epoch > 0` goes on where it was.

    Args:
        begin: When quantization starts. Defaults to 0: at once.
        freeze_ranges: When activation ranges are frozen. Defaults to None.
        freeze_batchnorm: When batch normalization is frozen. Defaults to None.

    Raises:
        ValueError: If a position is negative or a fraction above 1; when training starts, if a
            position lies behind the planned end, if fractions are used but the number of steps is
            not known, or if the model is not quantization-aware.

    Reference: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient
    inference", section 3.2 (freezing batch normalization); Jacob et al. 2018, section 3.1 (delay).

    Example:

    ```python
    qat = tfcompress.quantize_aware(model, "int8")
    qat.compile("adam", "sparse_categorical_crossentropy")
    qat.fit(x, y, epochs=4, callbacks=[QuantizationSchedule(freeze_batchnorm=0.75)])
    ```
    """

    def __init__(
        self,
        begin: int | float = 0,
        freeze_ranges: int | float | None = None,
        freeze_batchnorm: int | float | None = None,
    ) -> None:
        super().__init__()
        self.begin = begin
        self.freeze_ranges = freeze_ranges
        self.freeze_batchnorm = freeze_batchnorm
        self._clock = TrainingClock(
            {
                "begin": begin,
                "freeze_ranges": freeze_ranges,
                "freeze_batchnorm": freeze_batchnorm,
            }
        )
        self._state: tuple[bool, bool, bool] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Resolve the positions and check the model."""
        network = deployed_part(self.model)
        self._quantizers = quantizers_of(network)
        self._wrappers = wrappers_of(network)
        if not self._quantizers:
            raise ValueError(
                f"QuantizationSchedule needs a quantization-aware model, but '{network.name}' "
                "has no quantizers. Make one with `tfcompress.quantize_aware(model)`."
            )
        self._clock.start(self.params)
        self._state = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take over the position of a resumed training."""
        self._clock.epoch_begins(epoch)
        self._apply()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Switch when a position is reached."""
        self._clock.batch_ends(batch)
        self._apply()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report in the logs what is quantized and what is frozen."""
        if logs is not None and self._state is not None:
            logs.update(quantization_logs(self._state, self._clock))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave a model that predicts quantized."""
        self._switch(True, False, False)

    def _apply(self) -> None:
        reached = self._clock.reached
        self._switch(reached("begin"), reached("freeze_ranges"), reached("freeze_batchnorm"))

    def _switch(self, quantizing: bool, ranges_frozen: bool, batchnorm_frozen: bool) -> None:
        state = (quantizing, ranges_frozen, batchnorm_frozen)
        if state == self._state:
            return
        if self._state is not None:
            logging.info(
                "step %d: quantizing %s, ranges frozen %s, batch normalization frozen %s",
                self._clock.step,
                *state,
            )
        self._state = state
        for quantizer in self._quantizers:
            quantizer.quantizing = quantizing
            quantizer.observing = not ranges_frozen
        for wrapper in self._wrappers:
            wrapper.quantizing = quantizing
            wrapper.frozen = batchnorm_frozen
        retrace(self.model)


def retrace(model: keras.Model) -> None:
    """Make a model's compiled functions anew, so that they see changed Python switches."""
    makers: list[tuple[str, str, Callable[..., Any]]] = [
        ("train_function", "train_step", model.make_train_function),
        ("test_function", "test_step", model.make_test_function),
        ("predict_function", "predict_step", model.make_predict_function),
    ]
    for name, step, make in makers:
        # A function that was never made is made from the current switches when it is needed.
        if getattr(model, name, None) is not None:
            with _new_step(model, step):
                make(force=True)


@contextmanager
def _new_step(model: keras.Model, name: str) -> Iterator[None]:
    """Let a step that hangs on the model object, as under `MagnitudePruning`, be another object.

    JAX compiles a function object once, however often it is asked to. Methods are new objects every
    time that they are looked up.
    """
    step = model.__dict__.get(name)
    if step is None or keras.backend.backend() != "jax":
        yield
        return
    object.__setattr__(model, name, lambda *args: step(*args))
    try:
        yield
    finally:
        object.__setattr__(model, name, step)

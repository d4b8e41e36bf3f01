"""Quantization-aware training as a Keras callback."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import logging

from tfcompress.callbacks.quantization_logs import quantization_logs
from tfcompress.callbacks.quantization_schedule import retrace
from tfcompress.callbacks.training_clock import TrainingClock
from tfcompress.datasets.calibration import calibration_samples
from tfcompress.graph.keras_internals import deployed_part
from tfcompress.graph.model_inputs import model_inputs
from tfcompress.pruning.averages import mask_averages
from tfcompress.pruning.enforcement import Enforcement, enforcement_for, is_enforced
from tfcompress.pruning.state import PruningState, attach_state
from tfcompress.pruning.targets import prunable_weights
from tfcompress.quantization import schemes
from tfcompress.quantization.calibrate import calibrate
from tfcompress.quantization.instrument import kernel_masks
from tfcompress.quantization.routing import Routing
from tfcompress.quantization.scale_training import ScaleTraining
from tfcompress.quantization.twin import QuantizedTwin, attach_twin


class QuantizationAwareTraining(keras.callbacks.Callback):
    """Train the last part of a `fit` as the integer model that will be exported computes.

    Add it to an ordinary `fit`; the model is neither wrapped nor compiled again. Until `begin` it
    trains in float. From then on every call of the model runs through its quantized twin: the very
    same layers and variables with fake-quantized kernels and activations. Training step (also a
    custom one), optimizer, loss, metrics, gradient accumulation, averages, loss scaling,
    `jit_compile`, `steps_per_execution` and distribution stay those of the model. (Several replicas
    cannot train layers with activation ranges inside, as a `Dense` with a softmax has one.)

    **Validation** in the `fit` computes as the training steps before it did: in float before
    `begin`, quantized after it. When `fit` returns, the model is an ordinary float model again,
    with weights that were trained to be quantized. `tfcompress.export`, `tfcompress.strip` and
    `tfcompress.compare` find the twin and the ranges that it learned through the model;
    `tfcompress.quantization.quantized_form(model)` returns the quantized model to predict with.

    **Logs.** Each epoch's logs, and so Keras' progress bar and `History`, gain the state at its end
    as 0 or 1: `quantizing`, and `ranges_frozen` and `batchnorm_frozen` where they freeze.

    **Learned ranges.** What a scheme such as `"int8_lsq"` learns by gradient starts at `begin` and
    is trained by a second optimizer of the same kind, settings and learning rate, so that the
    model's own keeps its state. The state of the second is saved with the ranges.

    **Pruning.** Together with `MagnitudePruning`, in any order in the list, pruned weights are
    zeros of the quantized kernels. A model that was pruned before keeps its zeros.

    **Distillation.** In the `fit` of a `keras.distillation.Distiller` the student is quantized.

    **Resuming.** The ranges are saved with the weights by `BackupAndRestore`, `ModelCheckpoint` and
    `model.save`. A `fit` into which they are loaded, or with an `initial_epoch` above 0, goes on
    with the ranges of the model; any other starts with new ones. A model that `load_model` made
    gets them by `tfcompress.quantization.restore_ranges`. After an interrupt (Ctrl-C) the model
    goes on computing quantized, until a further `fit` with the callback has ended.

    A position in the training is a training step (int) or a share of all planned steps (float in
    [0, 1]). With `steps_per_execution`, a position within one execution counts from the next.

    Args:
        scheme: A scheme or its name. Defaults to `"int8"`.
        begin: When quantization starts. Defaults to `0.7`: the last three tenths are quantized.
        calibration: Samples from which the activation ranges start at `begin`: an array of shape
            `(samples, ...)`, a dict of arrays, a `tf.data.Dataset` or any iterable of batches.
            Defaults to None: ranges start with the first batch after `begin`.
        freeze_batchnorm: When batch normalization goes over to its moving statistics and stops
            updating them, as the exported model does. Defaults to None: never.
        freeze_ranges: When activation ranges stop moving. Defaults to None: never.
        verbose: Whether to print a summary of the plan when the training starts. Defaults to True.

    Raises:
        ValueError: If a position is negative or a share above 1, or the scheme is not known. When
            `fit` starts, if a position is outside the planned training or before `begin`, the
            number of steps is not known but shares are used, the model cannot be traced or is
            quantization-aware already, or the calibration data do not fit its inputs. In training,
            if a custom `train_step` never calls the model.

    Reference: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient
    inference", section 3 (fine-tuning from a float model, freezing batch normalization); Jacob et
    al. 2018, section 3.1 (delay).

    Example:

    ```python
    quantize = tfcompress.callbacks.QuantizationAwareTraining("int8", begin=0.7)
    model.fit(train, epochs=10, validation_data=test, callbacks=[quantize])
    tfcompress.export(model, "model.tflite", calibration=x_test[:256])
    ```
    """

    # Lets Keras run the batch-end hooks of its progress bar beside the training: ours only counts.
    async_safe = True

    def __init__(
        self,
        scheme: schemes.SchemeLike = "int8",
        begin: int | float = 0.7,
        calibration: Any = None,
        freeze_batchnorm: int | float | None = None,
        freeze_ranges: int | float | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.scheme = schemes.get(scheme)
        self.begin = begin
        self.calibration = calibration
        self.freeze_batchnorm = freeze_batchnorm
        self.freeze_ranges = freeze_ranges
        self.verbose = verbose
        self._clock = TrainingClock(
            {
                "begin": begin,
                "freeze_ranges": freeze_ranges,
                "freeze_batchnorm": freeze_batchnorm,
            }
        )
        self._routing: Routing | None = None
        self._samples: dict[str, np.ndarray] | None = None
        self._enforcement: Enforcement | None = None
        self._scales: ScaleTraining | None = None
        self._pruning: PruningState | None = None
        self._switches = (False, False, False)
        self._started = False

    @property
    def twin(self) -> QuantizedTwin:
        """The quantized twin of the model in training.

        Raises:
            RuntimeError: If the callback was not given a model yet.
        """
        return self._require_routing().twin

    def set_model(self, model: keras.Model | None) -> None:
        """Make the twin, so that callbacks that load weights restore its ranges."""
        super().set_model(model)
        if model is None:
            return
        # A training that was interrupted could not clean up.
        if self._enforcement is not None:
            self._enforcement.remove()
            self._enforcement = None
        self._stop_learning()
        ScaleTraining.remove_leftovers(model)
        network = deployed_part(model)
        if self._routing is not None and self._routing.model is network:
            self._routing.remove()
        self._routing = None
        twin = attach_twin(network, self.scheme)
        self._routing = Routing(network, twin)
        self._routing.remove()
        twin.restored = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that positions and calibration data fit the training and the model."""
        routing = self._require_routing()
        self._clock.start(self.params or {})
        self._check_positions()
        if self.calibration is not None:
            # A subclassed model does not know its inputs as well as its traced twin does.
            inputs = model_inputs(routing.twin.model())
            specs = [(name, shape[1:], dtype) for name, shape, dtype in inputs]
            self._samples = calibration_samples(self.calibration, specs)
        if self.verbose:
            begin = self._clock.planned("begin")
            print(f"Training quantized from step {begin} on. {routing.twin.plan.summary()}")
        self._switches = (False, False, False)
        self._started = False
        _ = self.model  # on JAX, brings the state back that is about to grow
        routing.add_state()
        self._start_learning()
        retrace(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find out before the first epoch whether this training goes on with an earlier one."""
        if not self._started:
            self._started = True
            _ = self.model
            if not self.twin.restored and epoch == 0:
                self.twin.reset()
            self._clock.step = self.twin.step
            self._keep_zeros()
        self._clock.epoch_begins(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Switch when a position is reached."""
        self._check_used()
        self._clock.batch_begins(batch)
        reached = self._clock.reached
        switches = (reached("begin"), reached("freeze_ranges"), reached("freeze_batchnorm"))
        if switches != self._switches:
            self._switch(*switches)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps. May be called from another thread."""
        self._clock.batch_ends(batch)
        self.twin.step = self._clock.step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check that the quantized model was trained, note its ranges, and report in the logs."""
        self._check_used()
        if self._switches[0]:
            _ = self.model
            self.twin.remember()
        if logs is not None:
            logs.update(quantization_logs(self._switches, self._clock))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave an ordinary float model that has a quantized twin."""
        if not self._switches[0]:
            logging.warning(
                "Training ended at step %d, before quantization began at step %d: the model is in "
                "float. Set an earlier `begin`, or let the training run until then.",
                self._clock.step,
                self._clock.planned("begin"),
            )
        model = self.model
        self.twin.switch()
        self._stop_learning()
        self._require_routing().remove()
        retrace(model)
        if self._enforcement is not None and self._pruning is not None:
            # After the last epoch Keras copies the optimizer's averages into the weights.
            self._pruning.apply()
            mask_averages(model.optimizer, self._pruning.masks)
            self._enforcement.remove()
            self._enforcement = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values; calibration data are left out."""
        return {
            "scheme": self.scheme.get_config(),
            "begin": self.begin,
            "freeze_batchnorm": self.freeze_batchnorm,
            "freeze_ranges": self.freeze_ranges,
            "verbose": self.verbose,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationAwareTraining:
        """Build the callback that `get_config` described."""
        return cls(**config)

    def _check_positions(self) -> None:
        begin, total = self._clock.planned("begin"), self._clock.total
        if begin is not None and total is not None and begin >= total:
            raise ValueError(
                f"`begin` is step {begin}, but the training ends after {total} steps: nothing "
                "would be trained quantized. Set an earlier `begin`. "
                f"Received: begin={self.begin!r}"
            )
        for name in ("freeze_ranges", "freeze_batchnorm"):
            step = self._clock.planned(name)
            if step is not None and begin is not None and step < begin:
                raise ValueError(
                    f"`{name}` is step {step}, before quantization begins at step {begin}. Set it "
                    f"at or after `begin`. Received: {name}={getattr(self, name)!r}"
                )

    def _switch(self, quantizing: bool, ranges_frozen: bool, batchnorm_frozen: bool) -> None:
        model, twin = self.model, self.twin
        if quantizing and not self._switches[0]:
            logging.info("step %d: training quantized from now on", self._clock.step)
            if not twin.is_ready():
                twin.start_scales()
                if self._samples is not None:
                    calibrate(twin.model(), self._samples)
            self._require_routing().install()
        twin.switch(ranges_frozen, batchnorm_frozen)
        self._switches = (quantizing, ranges_frozen, batchnorm_frozen)
        retrace(model)

    def _check_used(self) -> None:
        routing = self._require_routing()
        if self._switches[0] and not routing.is_used:
            raise ValueError(
                f"The model '{routing.model.name}' was trained without being called, so nothing "
                "was quantized: its `train_step` calls layers in it instead. Let it call the model "
                "itself, or train `tfcompress.quantize_aware(model)`."
            )

    def _keep_zeros(self) -> None:
        """Keep the zeros of a model that was pruned before, unless a callback does it already."""
        model, network = self.model, self._require_routing().model
        zeros = {} if is_enforced(model) else kernel_masks(network)
        targets = [t for t in prunable_weights(network)[0] if id(t.variable) in zeros]
        if not targets:
            return
        self._pruning = attach_state(network, targets)
        masks = self._pruning.require(targets)
        for mask in masks:
            mask.assign(zeros[id(mask.variable)])
        self._enforcement = enforcement_for(model)
        self._enforcement.install(masks)

    def _start_learning(self) -> None:
        """Let the training step train what the scheme learns by gradient."""
        self._stop_learning()
        learned = self.twin.learned()
        if learned:
            self._scales = ScaleTraining(self.model, learned)
            self.twin.accompany(self._scales.optimizer.variables)
            self._scales.install()

    def _stop_learning(self) -> None:
        if self._scales is not None:
            self._scales.remove()
            self._scales = None

    def _require_routing(self) -> Routing:
        if self._routing is None:
            raise RuntimeError(
                "QuantizationAwareTraining has no model yet. Pass it to `model.fit`, or call "
                "`set_model(model)` in a custom training loop."
            )
        return self._routing

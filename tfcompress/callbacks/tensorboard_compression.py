"""What compression does to a model in training, for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from absl import logging

from tfcompress.callbacks import quantization_logs
from tfcompress.evaluation.kernels import is_kernel
from tfcompress.graph import keras_internals
from tfcompress.graph.weights import Weight, weights_of
from tfcompress.pruning.state import find_state
from tfcompress.quantization.activation_quantizer import ActivationQuantizer
from tfcompress.quantization.twin import find_twin, quantized_form


class TensorBoardCompression(keras.callbacks.Callback):
    """Write sparsity, masks, activation ranges and histograms for TensorBoard.

    Stands beside `keras.callbacks.TensorBoard`, in the same folder if you like, and beside the
    callbacks that prune and quantize; put it after them. Written are, as far as the model has them:

    - `sparsity` and `sparsity/<weight>`: the share of zeros of all kernels and of each;
    - `mask_change/<weight>`: the share of a pruning mask's entries that changed since the last
      time;
    - `quantizing`, `ranges_frozen` and `batchnorm_frozen`: what the callbacks that quantize report
      in the logs, as 0 or 1;
    - `range/<quantizer>/low` and `high`: what a quantization-aware model has learned;
    - `weight/<weight>`: histograms of the kernels;
    - `activation/<layer>`: histograms of what flows between the layers, for `samples`.

    Needs the `tensorboard` package to look at the files, and TensorFlow to write them; the model
    may train on any backend.

    Args:
        log_dir: Folder for the event files. Defaults to `"logs"`.
        frequency: Epochs between two summaries. Defaults to `1`.
        histograms: Whether to write histograms of the kernels. Defaults to `True`.
        samples: Inputs to draw activations from: an array of shape `(n, ...)`, or a dict of such by
            input name; a few dozen are enough. Defaults to `None`: no histograms of activations.
        bins: Bins of a histogram. Defaults to `40`.

    Raises:
        ValueError: If `frequency` or `bins` is below 1; when training starts, if the samples do not
            fit the model.

    Example:

    ```python
    callbacks = [
        tfcompress.callbacks.MagnitudePruning(sparsity=0.8),
        tfcompress.callbacks.TensorBoardCompression("logs", samples=x[:32]),
    ]
    model.fit(x, y, epochs=10, callbacks=callbacks)
    ```

    Then run `tensorboard --logdir logs`.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        frequency: int = 1,
        histograms: bool = True,
        samples: Any = None,
        bins: int = 40,
    ) -> None:
        super().__init__()
        if frequency < 1 or bins < 1:
            raise ValueError(
                "`frequency` and `bins` must be at least 1. "
                f"Received: frequency={frequency}, bins={bins}"
            )
        self.log_dir = os.fspath(log_dir)
        self.frequency = frequency
        self.histograms = histograms
        self.samples = samples
        self.bins = bins
        self._writer: Any = None
        self._masks: dict[str, np.ndarray] = {}
        self._samples: dict[str, np.ndarray] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Open the event file and remember the masks."""
        import tensorflow as tf

        from tfcompress.datasets.calibration import calibration_samples
        from tfcompress.graph.model_inputs import model_inputs

        if self.samples is not None:
            inputs = model_inputs(self._watched())
            specs = [(name, shape[1:], dtype) for name, shape, dtype in inputs]
            self._samples = calibration_samples(self.samples, specs)
        self._writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "compression"))
        self._masks = self._current_masks()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the summaries of an epoch."""
        if (epoch + 1) % self.frequency:
            return
        with self._writer.as_default(step=epoch):
            self._write_kernels()
            self._write_masks()
            for name, value in (logs or {}).items():
                if name in quantization_logs.NAMES:
                    _scalar(name, value)
            self._write_ranges()
            if self._samples is not None:
                self._write_activations()
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values; samples are left out."""
        return {
            "log_dir": self.log_dir,
            "frequency": self.frequency,
            "histograms": self.histograms,
            "bins": self.bins,
        }

    @property
    def _network(self) -> keras.Model:
        """The student, if a `keras.distillation.Distiller` is in training."""
        return keras_internals.deployed_part(self.model)

    def _watched(self) -> keras.Model:
        """The model that computes as the exported file will, where there is one."""
        return quantized_form(self._network)

    def _kernels(self) -> list[Weight]:
        return [w for w in weights_of(self._network) if _is_kernel(w.variable)]

    def _write_kernels(self) -> None:
        zeros = size = 0
        for weight in self._kernels():
            values = keras.ops.convert_to_numpy(weight.variable)
            zeros += int(np.count_nonzero(values == 0))
            size += values.size
            _scalar(f"sparsity/{weight.name}", float(np.mean(values == 0)))
            if self.histograms:
                _histogram(f"weight/{weight.name}", values, self.bins)
        _scalar("sparsity", zeros / size if size else 0.0)

    def _write_masks(self) -> None:
        masks = self._current_masks()
        for name, mask in masks.items():
            # A mask that is new was all ones before.
            before = self._masks.get(name, np.ones_like(mask))
            _scalar(f"mask_change/{name}", float(np.mean(before != mask)))
        self._masks = masks

    def _write_ranges(self) -> None:
        twin = find_twin(self._network)
        layers = keras_internals.flat_sublayers(self._network if twin is None else twin.model())
        for layer in layers:
            found = layer.range if isinstance(layer, ActivationQuantizer) else None
            if found is None:
                continue
            name = getattr(layer, "path", None) or layer.name
            _scalar(f"range/{name}/low", found[0])
            _scalar(f"range/{name}/high", found[1])

    def _write_activations(self) -> None:
        from tfcompress.evaluation.keras_values import KerasValues
        from tfcompress.graph.flat import UntraceableModelError

        try:
            values = KerasValues(self._watched())
        except UntraceableModelError as error:
            logging.warning("No histograms of activations: %s", error)
            self._samples = None
            return
        for number, array in values.run(self._samples or {}).items():
            name = values.points[number].name
            _histogram(f"activation/{name}", array, self.bins)

    def _current_masks(self) -> dict[str, np.ndarray]:
        state = find_state(self._network)
        return {} if state is None else {mask.name: mask.numpy() for mask in state.masks}


def _scalar(tag: str, value: float) -> None:
    _write(tag, "scalars", np.float32(value))


def _histogram(tag: str, values: np.ndarray, bins: int) -> None:
    counts, edges = np.histogram(values, bins)
    _write(tag, "histograms", np.stack([edges[:-1], edges[1:], counts], axis=1))


def _write(tag: str, plugin: str, values: Any) -> None:
    # `tf.summary.scalar` and `histogram` would need TensorBoard, which TensorFlow comes without.
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, values, metadata=metadata)


def _is_kernel(variable: keras.Variable) -> bool:
    return is_kernel(variable.name, tuple(variable.shape)) and "float" in str(variable.dtype)

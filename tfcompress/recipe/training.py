"""One `fit` of a recipe: optimizer, loss, metrics, batches, backup."""

from __future__ import annotations

import time
from typing import Any

import keras

from tfcompress.datasets import Dataset
from tfcompress.recipe.batches import TrainingBatches
from tfcompress.recipe.epoch_backup import EpochBackup
from tfcompress.recipe.job import Job
from tfcompress.recipe.schema import FitSection, Recipe


def check_fit(section: FitSection) -> None:
    """Check the names that only Keras knows, before any training starts.

    Args:
        section: A recipe's `train`, `prune` or `quantize` section.

    Raises:
        ValueError: If Keras has no such optimizer, loss or metric, or the optimizer takes no
            weight decay.
    """
    _optimizer(section, steps=1)
    for kind, names, find in (
        ("loss", [getattr(section, "loss", None)], keras.losses.get),
        ("metric", getattr(section, "metrics", None) or [], keras.metrics.get),
    ):
        for name in filter(None, names):
            try:
                find(name)
            except ValueError as error:
                raise ValueError(
                    f"Keras knows no {kind} of this name. Received: {name!r}"
                ) from error


def fit(
    job: Job,
    stage: str,
    model: keras.Model,
    section: FitSection,
    *callbacks: keras.callbacks.Callback,
) -> dict[str, Any]:
    """Compile and train a model, going on from the stage's backup if there is one.

    Args:
        job: The job. The validation split, where there is one, is evaluated after each epoch.
        stage: Name of the stage, in whose backup the state is kept after each epoch.
        model: A built Keras model.
        section: Epochs, optimizer and learning rate.
        *callbacks: Further callbacks, such as `MagnitudePruning`.

    Returns:
        JSON-ready facts: `epochs`, `seconds` of this process, and the `logs` of the last epoch.
    """
    recipe, data = job.recipe, job.data
    backup = EpochBackup(job.folder.backup(stage))
    epoch = backup.epoch
    batches = TrainingBatches(
        data.train, recipe.data.batch_size, recipe.seed, epoch, recipe.data.augmentation
    )
    loss, metrics = loss_and_metrics(recipe, data)
    optimizer = _optimizer(section, steps=section.epochs * len(batches))
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
    started = time.perf_counter()
    history = model.fit(
        batches,
        epochs=section.epochs,
        initial_epoch=epoch,
        callbacks=[*callbacks, backup],
        validation_data=data.validation,
        verbose=job.verbose,
    )
    logs = {name: float(values[-1]) for name, values in history.history.items() if values}
    return {
        "epochs": section.epochs,
        "seconds": round(time.perf_counter() - started, 2),
        "logs": logs,
    }


def loss_and_metrics(recipe: Recipe, data: Dataset) -> tuple[str, list[str]]:
    """Choose loss and metrics by the labels, where the recipe does not name them.

    Args:
        recipe: The job.
        data: The data set.

    Returns:
        Cross-entropy and accuracy for class ids or one-hot rows, else the mean squared and the
        mean absolute error.
    """
    if data.num_classes is None:
        loss, metrics = "mean_squared_error", ["mean_absolute_error"]
    elif data.train.y.ndim > 1 and data.train.y.shape[1] > 1:
        loss, metrics = "categorical_crossentropy", ["accuracy"]
    else:
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    section = recipe.train
    if section is not None:
        loss = section.loss or loss
        metrics = metrics if section.metrics is None else section.metrics
    return loss, metrics


def _optimizer(section: FitSection, steps: int) -> keras.optimizers.Optimizer:
    rate: Any = section.learning_rate
    if section.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(section.learning_rate, steps)
    config: dict[str, Any] = {"learning_rate": rate}
    if section.weight_decay:
        config["weight_decay"] = section.weight_decay
    try:
        kind = type(keras.optimizers.get(section.optimizer))
    except ValueError as error:
        raise ValueError(
            f"Keras knows no optimizer of this name. Received: {section.optimizer!r}"
        ) from error
    return kind(**config)

"""What every fine-tuning of the ResNet8 benchmark shares: epochs, learning rates, seeds, schedule.

Both libraries read these, and nothing else, so that a difference in the results is a difference
between the libraries.
"""

import dataclasses
from types import ModuleType
from typing import Any

import cifar10
import numpy as np

BATCH_SIZE = 128
SPARSITY = 0.8
# Sparsity grows over the first quarter of the steps; the others let the network recover.
PRUNING_BEGIN, PRUNING_END = 0.0, 0.25
PRUNING_FREQUENCY = 20
# tfcompress lets pruned weights come back up to here; tfmot has nothing like it.
REGROW_UNTIL = 0.75
CALIBRATION_SAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Policy:
    """How one stage trains: Adam, the learning rate falling along a cosine to zero.

    Attributes:
        epochs: Passes over the 50,000 training images.
        learning_rate: The rate of the first step.
        seed: Seed of the order and of the augmentation.
        padding: Pixels by which images are shifted at most; best as in the last epochs before.
    """

    epochs: int
    learning_rate: float
    seed: int
    padding: int


POLICIES = {
    "qat": Policy(epochs=2, learning_rate=5e-4, seed=1, padding=0),
    "prune": Policy(epochs=4, learning_rate=2e-3, seed=2, padding=0),
    "pqat": Policy(epochs=2, learning_rate=1e-3, seed=3, padding=0),
}


def steps_per_epoch(arrays: dict[str, np.ndarray]) -> int:
    """Full batches in the training images."""
    return len(arrays["x_train"]) // BATCH_SIZE


def fine_tune(
    model: Any,
    keras: ModuleType,
    arrays: dict[str, np.ndarray],
    policy: Policy,
    callbacks: list[Any],
) -> None:
    """Compiles `model` and trains it by `policy`, without XLA in either library.

    Args:
        model: A model of `keras`.
        keras: The module the model belongs to, `keras` or `tf_keras`.
        arrays: The decoded CIFAR-10.
        policy: Epochs, learning rate and seed.
        callbacks: Callbacks of the library under test.
    """
    stream, steps = cifar10.training_stream(arrays, BATCH_SIZE, policy.seed, padding=policy.padding)
    schedule = keras.optimizers.schedules.CosineDecay(policy.learning_rate, steps * policy.epochs)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(stream, epochs=policy.epochs, steps_per_epoch=steps, callbacks=callbacks, verbose=2)


def calibration(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The first training images, not augmented: `(256, 32, 32, 3)` float32."""
    return cifar10.scaled(arrays["x_train"][:CALIBRATION_SAMPLES])

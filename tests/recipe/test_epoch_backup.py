"""Backups that survive being killed."""

import keras
import numpy as np
import pytest

from tfcompress.recipe.epoch_backup import EpochBackup

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = (X.sum(1) > 0).astype("int64")


class Stop(RuntimeError):
    """Stands in for a kill."""


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stop


def train(folder, epochs, *more, backup=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    callback = EpochBackup(folder)
    callbacks = [callback, *more] if backup else []
    model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        initial_epoch=callback.epoch if backup else 0,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    )
    return model


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "none", 4, backup=False)
    with pytest.raises(Stop):
        train(tmp_path / "backup", 4, StopAt(2))
    assert EpochBackup(tmp_path / "backup").epoch == 2
    resumed = train(tmp_path / "backup", 4)
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 16
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_only_the_last_epoch_is_kept(tmp_path):
    train(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-00003.weights.h5"]


def test_half_written_files_are_not_backups(tmp_path):
    train(tmp_path, 1)
    leftover = tmp_path / ".epoch-00002.weights.h5.part-abc"
    leftover.mkdir()
    (leftover / "epoch-00002.weights.h5").write_bytes(b"half")
    (tmp_path / "epoch-x.weights.h5").write_bytes(b"")
    assert EpochBackup(tmp_path).epoch == 1


def test_no_backup_means_the_first_epoch(tmp_path):
    assert EpochBackup(tmp_path / "missing").epoch == 0

"""A backup of a training after every epoch that survives being killed while it is written."""

from __future__ import annotations

import re
from pathlib import Path

import keras

from tfcompress.files import atomic_path

_NAME = re.compile(r"epoch-(\d+)\.weights\.h5")


class EpochBackup(keras.callbacks.Callback):
    """Save weights, optimizer and pruning state after each epoch; restore the last when resumed.

    `keras.callbacks.BackupAndRestore` writes the weights and the number of the epoch into two
    files, in place. Killed between the two, it repeats an epoch with the weights of the next one;
    killed inside one, it cannot be restored. Here the epoch is in the file's name, and the file
    appears under that name only when it is complete.

    Args:
        folder: Where the backup is kept. At most two files are in it.

    Example:

    ```python
    backup = EpochBackup("runs/demo/backup/train")
    model.fit(batches, epochs=10, initial_epoch=backup.epoch, callbacks=[backup])
    ```
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)

    @property
    def epoch(self) -> int:
        """Number of epochs that are done, which is the epoch to go on with."""
        return max(self._files(), default=0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Restore the last backup, if there is one."""
        files = self._files()
        if files:
            if not self.model.optimizer.built:
                # Loading skips variables that do not exist yet.
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(files[max(files)])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save the state and then remove the one before it."""
        earlier = self._files()
        with atomic_path(self.folder / f"epoch-{epoch + 1:05d}.weights.h5") as temporary:
            self.model.save_weights(temporary)
        for number, file in earlier.items():
            if number != epoch + 1:
                file.unlink()

    def _files(self) -> dict[int, Path]:
        found = {}
        for path in self.folder.glob("epoch-*.weights.h5"):
            if match := _NAME.fullmatch(path.name):
                found[int(match.group(1))] = path
        return found

"""Writing files so that an interrupted write never leaves a half-written one behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def prepare_destination(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a `Path` whose folder exists and can be written to.

    Args:
        path: Where a file is going to be written. Missing folders are created.

    Returns:
        The path.

    Raises:
        IsADirectoryError: If `path` is an existing folder.
        PermissionError: If its folder cannot be created or written to.
    """
    destination = Path(path).expanduser()
    if destination.is_dir():
        raise IsADirectoryError(
            f"The output must be a file, but a folder of that name exists. Received: {destination}"
        )
    _make_writable_folder(destination.parent)
    return destination


def _make_writable_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # os.access answers "yes" to a superuser even on a read-only mount, so try it for real.
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise PermissionError(
            f"The output folder cannot be written to: {folder} ({error.strerror or error}). "
            "Choose another folder or change its permissions."
        ) from error


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` beside `path` and rename it into place.

    Args:
        path: Destination file. Missing folders are created.
        data: Content.

    Returns:
        The destination.

    Raises:
        IsADirectoryError: If `path` is an existing folder.
        PermissionError: If its folder cannot be written to.
    """
    destination = prepare_destination(path)
    handle, temporary = tempfile.mkstemp(
        dir=destination.parent, prefix=f".{destination.name}.", suffix=".part"
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the permissions an ordinary open() would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return destination


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 beside `path` and rename it into place.

    See `atomic_write_bytes` for the errors.
    """
    return atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path with the same suffix to write to; it is renamed to `path` when the block ends.

    For writers that insist on opening the file themselves, such as `keras.Model.save`. When the
    block raises, what was written is removed and an earlier file at `path` stays as it was.

    Example:

    ```python
    with atomic_path("model.keras") as temporary:
        model.save(temporary)
    ```
    """
    destination = prepare_destination(path)
    folder = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}.part-"))
    try:
        temporary = folder / destination.name
        yield temporary
        os.replace(temporary, destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

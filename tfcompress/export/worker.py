"""A child process for work that may crash or hang: conversions and first runs of unknown files.

The TFLite converter can take the interpreter down with it (a segmentation fault while it quantizes
a rolled LSTM, an abort in a kernel), and so can running a damaged file. Both happen in a child that
is started on first use, reused (importing TensorFlow takes seconds) and replaced when it died. Its
memory is watched from outside: a limit on the address space would stop TensorFlow from starting.

The child talks in JSON lines over its standard input and output. Its real standard output is kept
for that alone; whatever libraries print goes to a log, which becomes part of the error.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from tfcompress.export.memory import available_bytes, resident_bytes
from tfcompress.progress import waiting

_CONVERSIONS_PER_CHILD = 20  # the converter leaks about 10 MB a call
_IDLE_SECONDS = 900  # TensorFlow holds half a gigabyte
_LOG_CHARACTERS = 20_000
_START_SECONDS = 120
_WATCH_SECONDS = 0.2
_MEMORY_SHARE = 0.9


class ConversionError(RuntimeError):
    """A conversion or a run in the child process failed, crashed or took too long.

    Args:
        message: What failed, the operators or layers that are likely involved, and the cure where
            one is known.
        returncode: Exit status of the child: negative for a signal (-11 is a segmentation fault),
            `None` when the child survived and reported an ordinary error.
        log: The end of what the child and its libraries printed.

    Example:

    ```python
    from tfcompress.export import ConversionError

    try:
        artifact = tfcompress.convert(model, "model.tflite", calibration=samples)
    except ConversionError as error:
        print(error, error.returncode, error.log)
    ```
    """

    def __init__(self, message: str, returncode: int | None = None, log: str = "") -> None:
        super().__init__(message)
        self.returncode = returncode
        self.log = log


class Worker:
    """One reusable child process.

    Args:
        idle_seconds: After how many idle seconds the child ends itself.
        memory_limit: Bytes of memory that the child may hold. Default: nine tenths of what is
            available when a job starts.

    Example:

    ```python
    worker = Worker()
    worker.call("tfcompress.export.jobs:run_file", path="model.tflite", samples="in.npz", ...)
    worker.close()
    ```
    """

    def __init__(
        self, idle_seconds: float = _IDLE_SECONDS, memory_limit: int | None = None
    ) -> None:
        self.memory_limit = memory_limit
        self._idle_seconds = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._received = b""
        self._started = False
        self._number = 0
        self._jobs = 0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the child, or `None` while there is none."""
        return None if self._process is None else self._process.pid

    def prepare(self) -> None:
        """Start the child now, if there is none, and let it import TensorFlow meanwhile.

        Returns at once. For whoever is about to ask for a conversion and has work to do before.
        """
        if not self._lock.acquire(blocking=False):
            return  # It is at work, so it is there.
        try:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()
                self._send({"target": "tfcompress.export.jobs:prepare", "arguments": {}})
        finally:
            self._lock.release()

    def call(self, target: str, /, time_limit: float = 600, **arguments: Any) -> Any:
        """Run a function in the child.

        Args:
            target: `"package.module:function"`.
            time_limit: Seconds after which the child is killed.
            **arguments: JSON-able keyword arguments of the function.

        Returns:
            What the function returned, by way of JSON.

        Raises:
            ConversionError: If the function raised, the child died, or the time or the memory was
                used up. A `ValueError` that the function raised stays a `ValueError`.
        """
        with self._lock, waiting(_job(target)):
            return self._call(target, time_limit, arguments)

    def _call(self, target: str, time_limit: float, arguments: dict[str, Any]) -> Any:
        from tfcompress.export.diagnosis import diagnose

        if self._jobs >= _CONVERSIONS_PER_CHILD:
            self._stop()
        notes: list[dict[str, Any]] = []
        request = {"target": target, "arguments": arguments, "time_limit": time_limit}
        try:
            answer = self._exchange(request, time_limit, notes)
            log = self._read_log()
        except MemoryError as error:
            log = self._read_log()
            self._stop()
            raise ConversionError(
                f"The child process was stopped because it held {error} of memory "
                f"({_job(target)}): use a smaller model or fewer calibration samples, or close "
                f"what else uses memory here. {diagnose(log, notes)}".strip(),
                returncode=-int(signal.SIGKILL),
                log=log,
            ) from None
        except TimeoutError:
            log = self._read_log()
            self._stop()
            raise ConversionError(
                f"The child process was stopped after {time_limit:g} s ({_job(target)}); raise "
                f"`time_limit` if the model is that large. {diagnose(log, notes)}".strip(),
                returncode=-int(signal.SIGKILL),
                log=log,
            ) from None
        except BaseException:
            # Ctrl-C, too: an answer that nobody waits for must not meet the next job.
            self._stop()
            raise
        if answer is None:
            returncode = self._stop()
            raise ConversionError(
                f"The child process died with {_name_exit(returncode)} ({_job(target)}). "
                f"{diagnose(log, notes)}".strip(),
                returncode=returncode,
                log=log,
            )
        if "error" not in answer:
            return answer["result"]
        kind, message = answer["error"], answer["message"]
        if kind == "ValueError":
            raise ValueError(message)
        cause = _shorten(message)
        if kind != ConversionError.__name__:
            cause = f"{_job(target)} failed with {kind}: {cause}"
        raise ConversionError(
            f"{cause} {diagnose(message + log, notes)}".strip(),
            log=f"{answer['traceback']}\n{log}",
        )

    def _exchange(
        self, request: dict[str, Any], time_limit: float, notes: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Send a request and wait; `None` when the child died meanwhile."""
        for fresh in (False, True):
            if fresh or self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()
            self._await_start()
            process, log = self._process, self._log
            if process is None or log is None:
                raise RuntimeError("The child process has no pipes.")
            memory = self.memory_limit
            if memory is None:
                memory = int((available_bytes() + resident_bytes(process.pid)) * _MEMORY_SHARE)
            log.seek(0)
            log.truncate()
            try:
                number = self._send(request)
            except BrokenPipeError:
                if fresh:
                    return None
                continue
            deadline = time.monotonic() + time_limit
            while (line := self._read_line(deadline, memory)) is not None:
                answer = json.loads(line)
                if answer.get("number") != number:
                    continue  # The answer to `prepare`.
                if "note" not in answer:
                    self._jobs += bool(request["target"].endswith(":convert"))
                    return answer
                notes.append(answer["note"])
            if notes:
                return None
            # It died before it had even read the request: of idleness, or somebody killed it.
        return None

    def _send(self, request: dict[str, Any]) -> int:
        """Write a request, and return the number that its answers carry."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("The child process has no pipes.")
        self._number += 1
        line = json.dumps({"time_limit": _START_SECONDS, **request, "number": self._number})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self._number

    def _read_line(self, deadline: float, memory: int | None = None) -> bytes | None:
        """Return the next line, or `None` at the end of the child's output.

        Raises:
            TimeoutError: After the deadline.
            MemoryError: When the child holds more than `memory` bytes.
        """
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("The child process has no pipes.")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if not selector.select(max(0.0, min(left, _WATCH_SECONDS))):
                    if left <= 0:
                        raise TimeoutError
                    if memory is not None and (held := resident_bytes(process.pid)) > memory:
                        raise MemoryError(
                            f"{held / 1e9:.1f} GB of the {memory / 1e9:.1f} GB that it may have"
                        )
                    continue
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return None
                self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _start(self) -> None:
        if not sys.executable:
            raise ConversionError(
                "Conversions run in a child process, which needs the path of the Python "
                "interpreter, but `sys.executable` is empty."
            )
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join(
                path for path in (root, os.environ.get("PYTHONPATH")) if path
            ),
        }
        environment.pop("TF_USE_LEGACY_KERAS", None)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed by _stop
        self._received = b""
        self._started = False
        self._jobs = 0
        # Not `-m`: that would make a second copy of this module besides the imported one. `-P`
        # keeps files in the working directory from shadowing packages.
        command = f"from tfcompress.export.child import serve; serve({self._idle_seconds})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            # Its own process group, so that everything it started can be killed with it.
            start_new_session=True,
        )

    def _await_start(self) -> None:
        if self._started:
            return
        try:
            self._started = self._read_line(time.monotonic() + _START_SECONDS) is not None
        except TimeoutError:
            self._started = False
        if not self._started:
            log = self._read_log()
            returncode = self._stop()
            raise ConversionError(
                f"The child process did not start ({_name_exit(returncode)}): {_shorten(log)}",
                returncode=returncode,
                log=log,
            )

    def _read_log(self) -> str:
        if self._log is None:
            return ""
        end = os.fstat(self._log.fileno()).st_size
        start = max(0, end - _LOG_CHARACTERS)
        return os.pread(self._log.fileno(), end - start, start).decode(errors="replace")

    def _stop(self) -> int:
        """Kill the child and what it started; return its exit status."""
        process, self._process = self._process, None
        returncode = 0
        if process is not None:
            if process.poll() is None:
                # The group may already be gone between the two calls.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            returncode = process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if self._log is not None:
            self._log.close()
            self._log = None
        return returncode

    def close(self) -> None:
        """End the child; the next call starts a fresh one."""
        with self._lock:
            self._stop()

    def abandon(self) -> None:
        """Forget a child that belongs to the process this one was forked from."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            # Held open here, its pipes would keep the child alive after its parent died. They
            # are replaced, not closed: closing takes a lock that another thread may have held.
            nothing = os.open(os.devnull, os.O_RDWR)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    os.dup2(nothing, pipe.fileno())
            os.close(nothing)
            # It is the parent's to wait for.
            process.returncode = 0
        self._log = None


_worker = Worker()
atexit.register(_worker.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_worker.abandon)


def default_worker() -> Worker:
    """Return the child process that all conversions of this process share."""
    return _worker


def _job(target: str) -> str:
    return target.rpartition(":")[2].replace("_", " ")


def _name_exit(returncode: int) -> str:
    if returncode < 0:
        try:
            return f"{signal.Signals(-returncode).name} (exit status {returncode})"
        except ValueError:
            return f"signal {-returncode}"
    return f"exit status {returncode}"


def _shorten(message: str, limit: int = 1500) -> str:
    message = message.strip()
    return (
        message if len(message) <= limit else f"{message[: limit // 2]} … {message[-limit // 2 :]}"
    )

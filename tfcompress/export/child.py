"""The child process of a `Worker`: it runs one job after the other until its parent is gone."""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import threading
from typing import IO, Any

_protocol: IO[str] | None = None
_number = 0


def note(**facts: Any) -> None:
    """From a job: tell the parent something that it should know if this process dies next.

    Outside a child process this does nothing.

    Args:
        **facts: JSON-able; `suspects=[{"op": …, "name": …}]` names dangerous operators.
    """
    if _protocol is not None:
        _send({"note": facts})


def serve(idle_seconds: float) -> None:
    """Run jobs until standard input ends. What the child process executes."""
    global _protocol, _number
    requests_from = os.fdopen(os.dup(0), encoding="utf-8")
    _protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Libraries may print to, or read from, the standard streams; keep them off the protocol.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    requests: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in requests_from:
            requests.put(line)
        # The parent is gone, and the main thread may be deep in a conversion.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    _send({"ready": True})
    while True:
        try:
            request = json.loads(requests.get(timeout=idle_seconds))
        except queue.Empty:
            # An ordinary exit would wait for the lock of the stream that the thread reads from.
            os._exit(0)
        _number = request["number"]
        # If the parent is killed while C++ code holds the interpreter lock, only this ends us.
        signal.setitimer(signal.ITIMER_REAL, request["time_limit"] + 30)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        note(job=request["target"])
        _send(_answer(request))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import traceback

    try:
        module, _, function = request["target"].partition(":")
        target = getattr(importlib.import_module(module), function)
        return {"result": target(**request["arguments"])}
    except Exception as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }


def _send(message: dict[str, Any]) -> None:
    if _protocol is None:
        raise RuntimeError("Only a child process that runs `serve` can answer.")
    _protocol.write(json.dumps({**message, "number": _number}) + "\n")
    _protocol.flush()

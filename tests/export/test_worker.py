"""The child process survives nothing; the parent survives everything."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfcompress.export import ConversionError, Worker
from tfcompress.export import worker as worker_module


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_is_started_on_first_use_and_reused():
    worker = Worker()
    assert worker.pid is None
    first = worker.call("os:getpid")
    assert first not in (os.getpid(), None)
    assert worker.call("os:getpid") == first == worker.pid
    worker.close()
    assert worker.pid is None


def test_crash_is_an_error_and_the_next_job_works(worker: Worker):
    before = worker.call("os:getpid")
    with pytest.raises(ConversionError, match="SIGABRT") as caught:
        worker.call("os:abort")
    assert caught.value.returncode == -signal.SIGABRT
    assert "Fatal Python error" in caught.value.log
    assert worker.call("os:getpid") != before


def test_segmentation_fault_is_an_error(worker: Worker):
    with pytest.raises(ConversionError) as caught:
        worker.call("ctypes:string_at", ptr=1)
    assert caught.value.returncode == -signal.SIGSEGV


def test_hang_is_cut_and_takes_its_own_children_along(worker: Worker):
    with pytest.raises(ConversionError, match=r"stopped after 1 s.*time_limit") as caught:
        worker.call("subprocess:call", time_limit=1, args=["sh", "-c", "echo $$ >&2; sleep 600"])
    assert caught.value.returncode == -signal.SIGKILL
    assert _is_gone(int(caught.value.log.split()[0]))
    assert worker.call("os:getpid") > 0


def test_memory_is_limited(worker: Worker):
    program = "import time; held = b'x' * 700_000_000; time.sleep(60)"
    worker.memory_limit = 500_000_000
    try:
        with pytest.raises(ConversionError, match=r"GB of the 0\.5 GB") as caught:
            worker.call("timeit:timeit", stmt=program, number=1)
    finally:
        worker.memory_limit = None
    assert caught.value.returncode == -signal.SIGKILL
    assert worker.call("os:getpid") > 0


def test_preparing_imports_tensorflow_ahead_of_the_first_job():
    worker = Worker()
    worker.prepare()
    worker.prepare()
    pid = worker.pid
    program = "sys.modules['tensorflow'], sys.modules['keras']; import sklearn.base"
    assert worker.call("timeit:timeit", stmt=program, setup="import sys", number=1) > 0
    assert worker.pid == pid == worker.call("os:getpid")
    worker.close()


def test_a_child_that_died_between_jobs_is_replaced(worker: Worker):
    before = worker.call("os:getpid")
    os.kill(before, signal.SIGKILL)
    assert worker.call("os:getpid") != before


def test_prints_do_not_break_the_protocol(worker: Worker):
    assert worker.call("pprint:pprint", object={"result": 1}) is None
    assert worker.call("subprocess:call", args=["echo", '{"result": 2}']) == 0


def test_value_errors_stay_value_errors(worker: Worker):
    with pytest.raises(ValueError, match="does not appear to be an IPv4"):
        worker.call("ipaddress:ip_address", address="nowhere")


def test_other_errors_keep_their_name_and_traceback(worker: Worker):
    with pytest.raises(ConversionError, match="JSONDecodeError") as caught:
        worker.call("json:loads", s="{")
    assert caught.value.returncode is None
    assert "Traceback" in caught.value.log


def test_is_replaced_before_the_converter_has_leaked_too_much(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    before = worker.call("os:getpid")
    monkeypatch.setattr(worker_module, "_CONVERSIONS_PER_CHILD", 0)
    assert worker.call("os:getpid") != before


def test_child_ends_itself_when_idle():
    worker = Worker(idle_seconds=0.2)
    first = worker.call("os:getpid")
    assert _is_gone(first)
    assert worker.call("os:getpid") != first
    worker.close()


_SCRIPT = """
import os, signal
from tfcompress.export.worker import default_worker

worker = default_worker()
mine = worker.call("os:getpid")
child = os.fork()
if child == 0:
    # A forked process must not talk to its parent's child.
    os._exit(0 if worker.pid is None and worker.call("os:getpid") != mine else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, worker.call("os:getpid") == mine, mine, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_forked_processes_get_their_own_and_none_outlives_its_parent():
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    status, same, pid = run.stdout.split()
    assert (status, same) == ("0", "True"), run.stderr
    assert run.returncode == -signal.SIGKILL
    assert _is_gone(int(pid))


def _is_gone(pid: int) -> bool:
    """Wait until a process has ended; one that nobody has reaped counts as ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False

"""How much memory a process holds, and how much there is to have."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def resident_bytes(pid: int) -> int:
    """Return the bytes of physical memory that a process holds; 0 when it has ended.

    Args:
        pid: A process of this user.
    """
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/statm").exists():
            return 0
        # macOS has no /proc.
        command = ["ps", "-o", "rss=", "-p", str(pid)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return int(answer.strip() or 0) * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Return the bytes that processes here can still have before something must be killed.

    What caches hold counts as available. Inside a container its own limit counts, too.
    """
    try:
        facts = Path("/proc/meminfo").read_text()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", facts, re.MULTILINE)
    if found is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(found[1]) * 1024, *_group_bytes(), 1 << 62)


def _group_bytes() -> list[int]:
    """What the control group of this process still allows; empty when it sets no limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        facts = (_CGROUP / "memory.stat").read_text()
    except OSError:
        return []
    if limit == "max":
        return []
    cached = re.search(r"^inactive_file (\d+)", facts, re.MULTILINE)
    return [max(0, int(limit) - used + (int(cached[1]) if cached else 0))]

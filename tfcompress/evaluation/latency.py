"""Timing single invocations of several models side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

WARM_UP = 10
ROUNDS = 20
BURST = 10
SECONDS_PER_ENTRY = 3.0


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    burst: int = BURST,
    seconds: float = SECONDS_PER_ENTRY,
    advance: Callable[[str, int], None] = lambda name, steps: None,
) -> dict[str, tuple[float, ...]]:
    """Time calls in turns, so that whatever else the machine does falls on all of them alike.

    After a warm-up, each round gives every call one burst. The first invocation of a burst is not
    counted: it pays for the caches that the other calls have emptied.

    Args:
        calls: What to time, by name.
        rounds: Turns. Defaults to 20.
        burst: Counted invocations a turn. Defaults to 10; fewer for calls so slow that all of them
            would take longer than `seconds`, but at least 1.
        seconds: Time to spend on one call, roughly. Defaults to 3.
        advance: Called with the name and 1 after every burst.

    Returns:
        Milliseconds of every counted invocation, by name.
    """
    bursts = {}
    for name, call in calls.items():
        started = time.perf_counter()
        for done in range(1, WARM_UP + 1):
            call()
            spent = time.perf_counter() - started
            if spent > seconds / 4 and done >= 2:
                break
        bursts[name] = int(np.clip(seconds / rounds / (spent / done), 1, burst))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(bursts[name]):
                started = time.perf_counter_ns()
                call()
                samples[name].append((time.perf_counter_ns() - started) / 1e6)
            advance(name, 1)
    return {name: tuple(values) for name, values in samples.items()}


def median_and_p95(samples: tuple[float, ...]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return float(np.median(samples)), float(np.percentile(samples, 95))

"""Progress on stderr that is silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Two displays at a time would write over each other: what is inside another one stays quiet.
_shown = False


@contextmanager
def progress_bar(total: int, enabled: bool = True) -> Iterator[Callable[[str, int], None]]:
    """Yield `advance(description, steps)`, which moves a bar on stderr if that is a terminal.

    Args:
        total: Steps in all.
        enabled: `False` for no bar anywhere.
    """
    with _display(enabled) as is_free:
        if not is_free:
            yield lambda description, steps: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda description, steps: bar.update(
                task, description=description, advance=steps
            )


@contextmanager
def waiting(description: str, enabled: bool = True) -> Iterator[None]:
    """Turn a wheel beside a text on stderr, if that is a terminal.

    Args:
        description: What is waited for.
        enabled: `False` for none anywhere.
    """
    with _display(enabled) as is_free:
        if not is_free:
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(description):
            yield


@contextmanager
def _display(enabled: bool) -> Iterator[bool]:
    global _shown
    if not enabled or _shown or not sys.stderr.isatty():
        yield False
        return
    _shown = True
    try:
        yield True
    finally:
        _shown = False

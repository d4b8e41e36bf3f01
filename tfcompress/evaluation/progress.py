"""A progress bar that is silent where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, enabled: bool = True) -> Iterator[Callable[[str, int], None]]:
    """Yield `advance(description, steps)`, which moves a bar on stderr if that is a terminal.

    Args:
        total: Steps in all.
        enabled: `False` for no bar anywhere.
    """
    import sys

    if not enabled or not sys.stderr.isatty():
        yield lambda description, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda description, steps: bar.update(task, description=description, advance=steps)

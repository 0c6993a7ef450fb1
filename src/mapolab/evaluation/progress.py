"""A bar in rank 0's terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mapolab.evaluation.processes import Processes
from mapolab.texts import visible


@contextmanager
def progress_bar(task: str, total: int, processes: Processes) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the number done; nothing is shown elsewhere. total: over all processes."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    shown = processes.rank == 0 and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        number = bar.add_task(visible(task), total=-(-total // processes.count))
        yield lambda done: bar.advance(number, done)

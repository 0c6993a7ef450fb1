"""How far the encoding is: a bar in a terminal, a line from time to time elsewhere."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts items of a known total; use it as a context manager."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.bar: Bar | None = None
        if sys.stdout.isatty():
            rate = TextColumn("{task.fields[rate]}")
            columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
            self.bar = Bar(*columns)

    def __enter__(self) -> "Progress":
        self.start = self.last_line = time.monotonic()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=self.total, rate="")
        return self

    def advance(self, count: int) -> None:
        """So many items more are done."""
        self.done += count
        seconds = time.monotonic() - self.start
        rate = self.done / max(seconds, 1e-9)
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:.1f}/s")
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = time.monotonic()
            left = duration((self.total - self.done) / rate)
            print(f"{self.what} {self.done}/{self.total}, {rate:.1f} a second, {left} left", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min`, `12 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def amount(size: float) -> str:
    """Bytes for people: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

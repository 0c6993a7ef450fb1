"""The one owner of signals: they only ask, and the run stops between two optimizer steps with everything saved."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from mapolab.errors import Interrupted

# Ctrl-C; the end of a job, from a person or a scheduler; and the two that Slurm and its users send ahead of it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
HELD_BACK = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


class StopRequest:
    """Remembers that a signal, or the nearing end of the job, asked the run to stop.

    Until `wait_for_step` (there is nothing to save yet) and at a second Ctrl-C (checkpoints are safe at any time) the
    process stops at once, by raising Interrupted; else at the end of the running step. While the run saves itself no
    signal does anything. deadline: seconds since the epoch, when the run is to save itself unasked.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.signal: int | None = None
        self.deadline = deadline
        self.waits = False
        self.saving = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handle the signals within the block; signal handlers exist in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            release_signals()
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def wanted(self) -> bool:
        """Whether the run is to stop after this step."""
        return self.signal is not None or (self.deadline is not None and time.time() >= self.deadline)

    @property
    def reason(self) -> str:
        """Why the run stops, for a sentence: `by SIGTERM`."""
        if self.signal is not None:
            return f"by {signal.Signals(self.signal).name}"
        late = self.deadline is not None and time.time() >= self.deadline
        return "before the job's time limit" if late else "by a signal to another of its processes"

    def wait_for_step(self) -> None:
        """From now on the running step is finished first."""
        self.waits = True

    def interrupted(self) -> Interrupted:
        """The exception that ends the command."""
        code = 128 + (self.signal or signal.SIGTERM)
        return Interrupted(f"Stopped {self.reason}. The same command continues the run.", exit_code=code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None and number == signal.SIGINT
        self.signal = number
        if self.saving:
            return
        if not self.waits or again:
            raise self.interrupted()
        # print() is not reentrant, and the signal may have come in the middle of one.
        os.write(2, b"Stopping after this step.\n")


def hold_signals() -> None:
    """Let the signals of a scheduler wait until somebody listens: before that they would kill the process.

    A command calls it first of all; Ctrl-C stays as it is.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)


def release_signals() -> None:
    """Let them come, also those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

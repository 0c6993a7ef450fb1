"""The loader's processes: where they come from, and that they leave it to the main process when to stop."""

import multiprocessing
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def ignore_stop_signals(worker: int) -> None:
    """Ctrl-C and Slurm's signals reach all processes; the main process decides when to stop, and workers follow it."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)


def fork_server() -> BaseContext:
    """A process without threads that loader processes are forked from, for runs of several ranks.

    Gloo's threads come and go in the interpreter after a collective. A process that is forked just then waits for ever
    for the interpreter's list of threads, and the run with it (github.com/python/cpython/issues/112275, in 3.11.7 and
    before).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mapolab.data.datasets"])
    # The server takes this over: Slurm signals it too, and without it no loader process lives on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context

"""A job as a process: several at a time, stopped and continued together."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO

from mapolab.errors import Interrupted, UserError
from mapolab.job_record import RECORD, note_job
from mapolab.runs import RunFolder
from mapolab.sweeps.folder import Job, SweepFolder
from mapolab.training.stopping import SIGNALS, release_signals

# How every process of ours starts. -P: the folder that a command is given in is a stranger's as often as not, and a
# torch.py in it must not be imported in place of torch.
PYTHON = (sys.executable, "-P", "-m")
# What an outer launcher may have set for its own processes: a job finds out for itself.
OF_ONE_RUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


class Processes:
    """Runs jobs on this machine, `parallel` at a time; a single one prints to the terminal, several to their logs.

    to_logs: also one at a time. gpus: indices, shared out to the parallel jobs in equal parts; None: each sees all.
    """

    def __init__(
        self, folder: SweepFolder, parallel: int = 1, gpus: Sequence[int] | None = None, to_logs: bool = False
    ):
        self.folder, self.parallel, self.gpus = folder, parallel, gpus
        self.to_logs = to_logs or parallel > 1
        self.signal: int | None = None

    def run(self, jobs: Sequence[Job], say: Callable[[str], None] = print) -> dict[int, int]:
        """Exit code by job number. A job that fails does not stop the others.

        Raises Interrupted after a signal: it is passed on, the running jobs save themselves, and no other starts.
        """
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        release_signals()
        try:
            return self._run(deque(jobs), say)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, waiting: deque[Job], say: Callable[[str], None]) -> dict[int, int]:
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        try:
            return self._watch(waiting, running, say)
        except BaseException:  # as of a full disk: nobody would watch those that run
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
            raise

    def _watch(
        self, waiting: deque[Job], running: dict[int, tuple[Job, subprocess.Popen[bytes]]], say: Callable[[str], None]
    ) -> dict[int, int]:
        codes: dict[int, int] = {}
        passed_on = None
        while running or (waiting and self.signal is None):
            while waiting and len(running) < self.parallel and self.signal is None:
                slot = next(slot for slot in range(self.parallel) if slot not in running)
                job = waiting.popleft()
                say(f"Job {job.number}: {' '.join(job.overrides)} in {job.run}")
                running[slot] = job, self._start(job, slot)
            if self.signal is not None and self.signal != passed_on:
                passed_on = self.signal
                for _, process in running.values():
                    process.send_signal(passed_on)
            for slot, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    codes[job.number] = process.returncode
                    say(self._ended(job, process.returncode))
            time.sleep(0.02)
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Interrupted(
                f"The sweep was stopped by {name}: {len(codes)} of its jobs had been started, {len(waiting)} wait. The "
                "same command continues it.",
                exit_code=128 + self.signal,
            )
        return codes

    def _start(self, job: Job, slot: int) -> subprocess.Popen[bytes]:
        note_job(self.folder.record_file(job.number), exit_code=None, message=None)
        log: IO[bytes] | None = None
        if self.to_logs:
            # Never through a link: it would append to whatever file that names.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            log = os.fdopen(os.open(self.folder.log_file(job.number), flags, 0o666), "ab")
        try:
            # A group of its own: Ctrl-C in the terminal comes to us alone, and is passed on once.
            return subprocess.Popen(
                [*PYTHON, "mapolab", *job.arguments],
                env=self._environment(job, slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        finally:
            if log is not None:
                log.close()

    def _environment(self, job: Job, slot: int) -> dict[str, str]:
        environment = {key: value for key, value in os.environ.items() if key not in OF_ONE_RUN}
        environment[RECORD] = str(self.folder.record_file(job.number).absolute())
        if self.parallel > 1:
            # Each job's threads on all cores would slow all of them several times.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.parallel)))
        if self.gpus is not None:
            share = len(self.gpus) // self.parallel
            mine = self.gpus[slot * share : (slot + 1) * share]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
        return environment

    def _ended(self, job: Job, code: int) -> str:
        if self.folder.record(job.number).get("exit_code") is None:  # it could not note it itself
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            note_job(self.folder.record_file(job.number), exit_code=code, message=how)
        how = "finished" if code == 0 else f"ended with exit code {code}"
        try:
            status = RunFolder(job.run).manifest().get("status")
        except (UserError, OSError, ValueError):  # what is wrong with the folder, the job has said itself
            status = None
        where = f", see {self.folder.log_file(job.number)}" if code and self.to_logs else ""
        return f"Job {job.number} {how}{f' ({status})' if code and status else ''}{where}"

    def _note(self, number: int, frame: object) -> None:
        self.signal = number

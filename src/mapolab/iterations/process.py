"""A phase of a round, started, watched and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from mapolab.config.environment_values import KEY
from mapolab.errors import Interrupted, RunError, UserError
from mapolab.files import write_json
from mapolab.job_record import RECORD, note_job, read_record
from mapolab.runs import RunFolder
from mapolab.sweeps.process import OF_ONE_RUN, PYTHON
from mapolab.training.stopping import SIGNALS

PATIENCE = 60  # seconds that a killed command's process may take to save itself


class PhaseProcess:
    """Runs phases one after another; a signal is passed on to the one that runs."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def run(self, phase: str, config: dict[str, Any], folder: Path, round_number: int) -> None:
        """Run a phase to its end. folder: of the round.

        Raises UserError and RunError as the phase did, RunError if it crashed, and Interrupted after a signal.
        """
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            code, message = self._run(phase, config, folder)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        where = f"round {round_number}, phase {phase}"
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Interrupted(f"Stopped by {name} in {where}. The same command continues.", 128 + self.signal)
        if code:
            raise _outcome(code, message, where)

    def _run(self, phase: str, config: dict[str, Any], folder: Path) -> tuple[int, str | None]:
        """Its exit code and, where it ended on purpose, its message."""
        file, record = folder / "phases" / f"{phase}.json", folder / "phases" / f"{phase}_end.json"
        write_json(file, config)
        note_job(record, exit_code=None, message=None)
        environment = {key: value for key, value in os.environ.items() if key not in OF_ONE_RUN}
        _wait_for_predecessor(folder)
        # A group of its own: Ctrl-C in the terminal comes to us alone, and is passed on once. Its standard input is a
        # pipe that ends when we do.
        process = subprocess.Popen(
            [*PYTHON, "mapolab.iterations.phase", phase, str(file)],
            env=environment | {RECORD: str(record.absolute())},
            stdin=subprocess.PIPE,
            process_group=0,
        )
        passed_on = None
        while process.poll() is None:
            if self.signal is not None and self.signal != passed_on:
                passed_on = self.signal
                process.send_signal(passed_on)
            time.sleep(0.02)
        if config.get(KEY):  # what it holds is no longer needed, and perhaps a secret
            file.unlink(missing_ok=True)
        return process.returncode, read_record(record).get("message")

    def _note(self, number: int, frame: object) -> None:
        self.signal = number


def _wait_for_predecessor(folder: Path) -> None:
    """A command that was killed leaves its phase a moment to save itself."""
    deadline = time.monotonic() + PATIENCE
    while any(RunFolder(folder / name).is_locked() for name in ("pairs", "run")) and time.monotonic() < deadline:
        time.sleep(0.1)


def _outcome(code: int, message: str | None, where: str) -> Exception:
    if message is None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"crashed with exit code {code}"
        return RunError(f"{where.capitalize()} {how}; what it printed stands above. The same command continues.")
    text = f"In {where}: {message}"
    if code >= 128:
        return Interrupted(text, code)
    return UserError(text) if code == UserError.exit_code else RunError(text)

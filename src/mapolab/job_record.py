"""The record of a sweep's job: a small file that the sweep makes and the job itself completes."""

import contextlib
import os
from pathlib import Path
from typing import Any

from mapolab.config.environment import rank_from_environment
from mapolab.files import read_json, write_json

RECORD = "MAPOLAB_JOB_RECORD"  # the environment variable that tells a job where its record is


def note_job(file: Path, **fields: Any) -> None:
    """Set fields of a job's record."""
    write_json(file, (read_json(file) if file.exists() else {}) | fields)


def note_end(code: int, message: str | None) -> bool:
    """Note how this process ended, if it is a job of a sweep (rank 0 speaks for all). Returns whether that is noted: on
    a full disk it is not."""
    file = os.environ.get(RECORD)
    if file and rank_from_environment() == 0:
        with contextlib.suppress(OSError):
            note_job(Path(file), exit_code=code, message=message)
            return True
    return False

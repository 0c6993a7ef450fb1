"""The record of a sweep's job: a small file that the sweep makes and the job itself completes."""

import contextlib
import os
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mapolab.config.environment import rank_from_environment
from mapolab.errors import UserError
from mapolab.files import write_json
from mapolab.reading import read_object

RECORD = "MAPOLAB_JOB_RECORD"  # the environment variable that tells a job where its record is


class JobRecord(TypedDict, total=False):
    """exit_code, message: of the job's last end. arguments, run: what starts it, and its folder. slurm: its number
    there."""

    number: int
    arguments: list[str]
    run: str
    exit_code: int | None
    message: str | None
    slurm: str | int | None


def note_job(file: Path, **fields: Any) -> None:
    """Set fields of a job's record."""
    write_json(file, (read_record(file) if file.exists() else {}) | fields)


def read_record(file: Path) -> JobRecord:
    """Raises UserError for a file that is none."""
    return read_object(file, JobRecord, "Remove it, and give the command again that wrote it.")


def note_end(code: int, message: str | None) -> None:
    """Note how this process ended, if it is a job of a sweep (rank 0 speaks for all)."""
    file = os.environ.get(RECORD)
    if file and rank_from_environment() == 0:
        with contextlib.suppress(UserError):  # a broken record must not hide how the job ended
            note_job(Path(file), exit_code=code, message=message)

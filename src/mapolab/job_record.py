"""The record of a sweep's job: a small file that the sweep makes and the job itself completes."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mapolab.config.environment import rank_from_environment
from mapolab.errors import UserError
from mapolab.files import write_json
from mapolab.reading import read_object
from mapolab.texts import odd_character, visible

RECORD = "MAPOLAB_JOB_RECORD"  # the environment variable that tells a job where its record is


class JobRecord(TypedDict, total=False):
    """arguments, run: of `mapolab`, and its folder. exit_code, message: of its last end. slurm: its name there."""

    number: int
    arguments: list[str]
    run: str
    exit_code: int | None
    message: str | None
    slurm: str


def read_record(file: Path) -> JobRecord:
    """A job's record, empty where there is none yet. Raises UserError for a file that is no such record. What is in it
    is shown, and never run."""
    if not file.exists():
        return {}
    record = read_object(file, JobRecord, FIX)
    for key, holds in KINDS.items():
        if key in record and not holds(record[key]):
            shown = str(record[key])[:60]
            raise UserError(f"{file} cannot be used as the record of a job: its {key} is {shown!r}. {FIX}")
    return record


def _is_text(value: str) -> bool:
    return not odd_character(value)


FIX = "Remove it; the sweep's own command writes it again."
KINDS: dict[str, Callable[[Any], bool]] = {
    "number": lambda value: value >= 0,
    "arguments": lambda value: bool(value) and all(map(_is_text, value)),
    "run": lambda value: bool(value) and _is_text(value),
    "slurm": lambda value: re.fullmatch(r"\d+(_\d+)?", value) is not None,
}


def note_job(file: Path, **fields: Any) -> None:
    """Set fields of a job's record."""
    write_json(file, read_record(file) | fields)


def note_end(code: int, message: str | None) -> bool:
    """Note how this process ended, if it is a job of a sweep (rank 0 speaks for all). Returns whether that is noted: on
    a full disk it is not."""
    file = os.environ.get(RECORD)
    if file and rank_from_environment() == 0:
        shown = None if message is None else visible(message)
        with contextlib.suppress(OSError):
            try:
                note_job(Path(file), exit_code=code, message=shown)
            except UserError:  # it says how the process ended, whatever was there before
                write_json(file, {"exit_code": code, "message": shown})
            return True
    return False

"""The record of a sweep's job: a small file that the sweep makes and the job itself completes."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mapolab.config.environment import rank_from_environment
from mapolab.errors import UserError
from mapolab.files import read_json, write_json
from mapolab.texts import odd_character, without_odd_characters

RECORD = "MAPOLAB_JOB_RECORD"  # the environment variable that tells a job where its record is


def read_record(file: Path) -> dict[str, Any]:
    """A job's record, empty where there is none yet. number: 0 or more; arguments: of `mapolab`; run: its folder; and
    of its last end exit_code and message; slurm: its name there.

    Raises UserError for a file that is no such record. What is in it is shown, and never run.
    """
    try:
        record = read_json(file) if file.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(file, str(error)) from None
    if not isinstance(record, dict):
        raise _broken(file, "it holds no record")
    for key, value in record.items():
        if not KINDS.get(key, lambda _: True)(value):
            raise _broken(file, f"its {key} is {str(value)[:60]!r}")
    return record


def _broken(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} cannot be used as the record of a job: {reason}. Remove it; the sweep's own command writes it again."
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not odd_character(value)


KINDS: dict[str, Callable[[Any], bool]] = {
    "number": lambda value: type(value) is int and value >= 0,
    "arguments": lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
    "run": lambda value: _is_text(value) and bool(value),
    "exit_code": lambda value: value is None or type(value) is int,
    "message": lambda value: value is None or isinstance(value, str),
    "slurm": lambda value: isinstance(value, str) and re.fullmatch(r"\d+(_\d+)?", value) is not None,
}


def note_job(file: Path, **fields: Any) -> None:
    """Set fields of a job's record."""
    write_json(file, read_record(file) | fields)


def note_end(code: int, message: str | None) -> bool:
    """Note how this process ended, if it is a job of a sweep (rank 0 speaks for all). Returns whether that is noted: on
    a full disk it is not."""
    file = os.environ.get(RECORD)
    if file and rank_from_environment() == 0:
        shown = None if message is None else without_odd_characters(message)
        with contextlib.suppress(OSError):
            try:
                note_job(Path(file), exit_code=code, message=shown)
            except UserError:  # it says how the process ended, whatever was there before
                write_json(file, {"exit_code": code, "message": shown})
            return True
    return False

"""The exceptions that end a command on purpose, each with its exit code.

Anything else that reaches the command line is a fault of the program and keeps its traceback, but for what a disk
refuses: `disk_fault` says what that is.
"""

import errno
import os
import re


class UserError(Exception):
    """A mistake in the command, the config or the files it names. The text is one paragraph that names the fix."""

    exit_code = 2


class RunError(Exception):
    """A run that mapolab stopped itself, as on a non-finite loss. The text is one paragraph that says where to look."""

    exit_code = 1


class Interrupted(Exception):
    """A run that was asked to stop, saved its state and can be continued by the same command.

    exit_code: 128 + the signal's number, as shells report it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


_ROOM = "Make room there, or name a place on another disk"
_DISK = "Look at that disk, or name a place on another"
_RIGHTS = "Give yourself the rights to it, or name another place"
_READ_ONLY = "Have that disk mounted for writing, or name a place on another"
_NAME = "Give a shorter name, or another folder"
_IN_THE_WAY = "Move what is there, or name another place"
# What a disk refuses, by its number, and what to do about it.
_OF_THE_DISK = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.EROFS: _READ_ONLY,
}
# These are also said of what is no file, as of sockets; then they name none.
_OF_A_PATH = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENAMETOOLONG: _NAME,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTEMPTY: _IN_THE_WAY,
    errno.EBUSY: _IN_THE_WAY,
    errno.ELOOP: _IN_THE_WAY,
    errno.ENOLCK: _DISK,
    errno.EOPNOTSUPP: _DISK,
}


def disk_fault(error: BaseException) -> UserError | RunError | None:
    """What to tell of an error that the disk is to blame for: full, over quota, read-only, broken, without rights, or
    with something else in the way. None for any other error.

    RunError where the disk failed the command, UserError where the command named a place that cannot be used.
    """
    number, path = error_number(error), getattr(error, "filename", None)
    if number not in _OF_THE_DISK and (number not in _OF_A_PATH or path is None):
        return None
    told = f"{_text(path)} cannot be used: {os.strerror(number)}" if path is not None else os.strerror(number)
    fix = _OF_THE_DISK.get(number) or _OF_A_PATH[number]
    kind = RunError if number in _OF_THE_DISK else UserError
    return kind(f"{told}. {fix}; then give the same command again: what was finished before is whole.")


def error_number(error: BaseException) -> int | None:
    """errno of what the system refused, None for other errors; safetensors has it in its text alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def _text(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)

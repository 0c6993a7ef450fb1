"""Files that are whole or absent, whenever the process dies.

`write_*` put the new content beside its target, flush it to the disk and then rename it over the target: a reader sees
the old file or the new one, never a part. The folder is flushed too, or the rename itself could be lost with the power.

Who writes a file holds a lock on it until it has its name, so `sweep` knows what a killed process left.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mapolab.errors import UserError, error_number
from mapolab.texts import with_apostrophe

UNFINISHED = re.compile(r"\.[0-9a-f]{12}\.tmp")
"""The names of files that are being written."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data` atomically, making its folder if need be. Raises OSError as open() would."""
    path = Path(path)
    with errors_of(path):
        with _written(path, data) as temporary:
            os.replace(temporary, path)
        fsync_folder(path.parent)


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace files of a folder, by name. The last one is absent while the others change, so that who finds it finds
    all of one writing; a disk without room for all of them leaves all as they were."""
    with errors_of(folder), contextlib.ExitStack() as stack:
        targets = {folder / name: text.encode() for name, text in texts.items()}
        written = {path: stack.enter_context(_written(path, data)) for path, data in targets.items()}
        last = [*written][-1]
        last.unlink(missing_ok=True)
        fsync_folder(last.parent)
        for path, temporary in written.items():
            os.replace(temporary, path)
            fsync_folder(path.parent)


@contextlib.contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A flushed file with this content beside `path`, held for the block, after which it is gone or has its name."""
    make_folder(path.parent)
    while True:
        temporary = unfinished(path)
        with open(temporary, "xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks; nothing is swept there
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_at(file.fileno(), temporary):
                continue  # swept between its making and its lock
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield temporary
                return
            finally:
                temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """A new name for what will be `path`; in the same folder, since a rename across devices would be a copy, which can
    be cut off in the middle."""
    return path.parent / f".{secrets.token_hex(6)}.tmp"


def is_at(descriptor: int, path: str | Path) -> bool:
    """Whether an opened file still has this name."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


@contextlib.contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """What the disk refuses within the block, and that names no file, names this one: a write to a full disk knows a
    number alone. safetensors' own error becomes an OSError."""
    try:
        yield
    except Exception as error:
        number = error_number(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        if not isinstance(error, OSError):
            raise OSError(number, os.strerror(number), str(path)) from error
        error.filename = str(path)
        raise


def sweep(folder: str | Path) -> None:
    """Remove the unfinished files that killed processes left in a folder; what another one is writing stays."""
    try:
        names = [entry.name for entry in os.scandir(folder) if UNFINISHED.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):  # held, or gone, or not ours to remove
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically. Raises TypeError for what JSON cannot hold."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of a file that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_csv(path: str | Path, lines: Iterable[Iterable[Any]]) -> None:
    """Replace `path` by a table, atomically: `reading.read_cells` reads every text as it is, and None as an empty cell.

    A spreadsheet takes no cell for a formula: an apostrophe stands before what begins like one.
    """
    write_text(path, csv_text(lines))


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """The text of a table, as `write_csv` writes it."""
    return "".join(",".join(map(_cell, line)) + "\n" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else with_apostrophe(str(value))
    # csv.writer leaves a carriage return without quotes where lines end in \n, and csv.reader ends the row there.
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, and ValueError where it is no JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_regular(path: str | Path, most: int) -> bytes:
    """The content of a file that somebody else may have made. most: bytes.

    Raises OSError as open() would, and UserError for what has no end or more bytes: pipes and devices are not opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is no regular file but a folder, a pipe or a device. Name a file.")
    with open(path, "rb") as file:
        content = file.read(most + 1)  # not the size that the file system tells, which is 0 in /proc
    if len(content) > most:
        raise UserError(f"{path} is larger than {most >> 20} MiB, the most that is read of such a file. Split it.")
    return content


def open_to_others(path: str | Path) -> None:
    """Give a file the permissions of any new file: safetensors makes its own for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it that are not there, each with its name on the disk."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_folder(folder.parent)


def fsync_folder(path: str | Path) -> None:
    """Flush a folder's entries (new names, renames) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(value: Any) -> str:
    """40 hex characters that name a JSON-able value; the order of a dict's keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]


def short_hash(value: Any) -> str:
    """The first 8 of them."""
    return content_key(value)[:8]

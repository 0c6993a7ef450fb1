"""Files that are whole or absent, whenever the process dies.

`write_*` put the new content beside its target, flush it to the disk and then rename it over the target: a reader sees
the old file or the new one, never a part. The folder is flushed too, or the rename itself could be lost with the power.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mapolab.errors import UserError
from mapolab.texts import with_apostrophe


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data` atomically, making its folder if need be.

    Raises OSError as open() would, and UserError where the path is a folder.
    """
    path = Path(path)
    make_folder(path.parent)
    # In the target's own folder: a rename across devices would be a copy, which can be cut off in the middle.
    temporary = path.parent / f".{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except IsADirectoryError:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} is a folder, where a file of that name is written. Move it away.") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically. Raises TypeError for what JSON cannot hold."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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


def short_hash(value: Any) -> str:
    """8 hex characters that name a JSON-able value; the order of a dict's keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]

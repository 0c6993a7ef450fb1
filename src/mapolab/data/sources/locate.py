"""Which files a data set consists of: on a disk, behind a URL, or on the hub; and which of them belong to a split."""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mapolab.data.sources.http import filesystem_of
from mapolab.data.sources.remote import DataFile, with_retries
from mapolab.errors import UserError
from mapolab.paths import resolve

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# train-00012-of-00645-0123456789abcdef.parquet, as the datasets library writes it
PART = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.(?i:parquet)")
USUAL_SPLITS = {"train", "validation", "test", "valid", "val", "dev"}
# What stores call the thing that changes with a file's content.
VERSIONS = ("etag", "ETag", "blob_id", "md5Hash", "LastModified", "last_modified", "mtime", "created")
READERS = 16  # files asked for their size at once


@dataclass(frozen=True)
class Located:
    """The files in the order of their names; those that the names of others promise (`-of-00645`) but are not there."""

    files: tuple[DataFile, ...]
    missing: tuple[str, ...]
    remote: bool


def locate(path: str, split: str | None, revision: str | None) -> Located:
    """The parquet files of a data set's split.

    path: `builtin:...`, a file or folder, a URL that fsspec knows, or the name of a data set on the hub. A local path
    wins over a name on the hub. revision: a commit of the hub's repository.
    Raises UserError where nothing is found or the split is not clear, RunError when a remote does not answer.
    """
    local = Path(resolve(path))
    if local.exists():
        files, remote = _local_files(local), False
    elif "://" in path or HUB_NAME.fullmatch(path):
        files, remote = _remote_files(path, revision), True
    else:
        raise UserError(
            f"data.path={path} does not exist. Name a parquet file, a folder of them or of image pairs, a URL, or a "
            "data set on the hub (owner/name)."
        )
    if not files:
        raise UserError(f"data.path={path} has no parquet file. Correct the path.")
    files = _of_split(path, sorted(files, key=lambda file: file.name), split)
    return Located(tuple(files), () if _is_parquet(path) else _missing(files), remote)


def _is_parquet(name: str) -> bool:
    """By its ending, in any case: a part called .PARQUET would be left out without a word."""
    return name.lower().endswith(".parquet")


def _local_files(path: Path) -> list[DataFile]:
    root = path if path.is_dir() else path.parent
    below = (file for file in path.rglob("*") if _is_parquet(file.name) and not file.is_dir())
    found = sorted(below) if path.is_dir() else [path]
    if odd := next((file for file in found if not file.is_file()), None):  # opening a pipe would wait for ever
        raise UserError(
            f"{odd} is no regular file but a pipe, a device or a broken link. Remove it, or put a file there."
        )
    stats = ((file, file.stat()) for file in found)
    return [
        DataFile(file.relative_to(root).as_posix(), str(file), stat.st_size, str(stat.st_mtime_ns))
        for file, stat in stats
    ]


def _remote_files(path: str, revision: str | None) -> list[DataFile]:
    url = path
    if "://" not in path:
        url = f"hf://datasets/{path}@{revision}" if revision else f"hf://datasets/{path}"
    try:
        filesystem, root = filesystem_of(url)
        entries = with_retries(lambda: filesystem.find(root, detail=True), url)
    except (ImportError, ValueError) as error:
        raise UserError(f"data.path={path} cannot be opened: {' '.join(str(error).split())}.") from None
    except OSError as error:
        raise UserError(
            f"data.path={path} is not there, or not for you ({' '.join(str(error).split())[:200] or 'not found'}). "
            "Check the name, data.revision and your access (hub: `hf auth login`)."
        ) from None
    found = {name: entry for name, entry in entries.items() if _is_parquet(name)}
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda item: _remote_file(filesystem, root, *item), found.items()))


def _remote_file(filesystem: Any, root: str, name: str, entry: dict[str, Any]) -> DataFile:
    if entry.get("size") is None:  # a plain web server lists names only
        entry = with_retries(lambda: filesystem.info(name), name)
    if type(entry.get("size")) is not int or entry["size"] < 0:
        raise UserError(f"The server does not tell the size of {name}. Download the data, and name its folder.")
    version = next((str(entry[key]) for key in VERSIONS if entry.get(key)), "")
    below = name.removeprefix(root.rstrip("/")).lstrip("/") or PurePosixPath(name).name
    return DataFile(below, filesystem.unstrip_protocol(name), entry["size"], version)


def _of_split(path: str, files: list[DataFile], split: str | None) -> list[DataFile]:
    by_split = defaultdict(list)
    for file in files:
        by_split[_split_of(file.name)].append(file)
    named = sorted(name for name in by_split if name)
    if split is None:
        if len(named) > 1:
            # Training on all of them together has happened, in a published pipeline.
            raise UserError(f"data.path={path} holds the splits {', '.join(named)}. Choose one with data.split.")
        return files
    # A split may also have a name that nothing tells from any other file's.
    chosen = by_split.get(split) or [file for file in files if PurePosixPath(file.name).stem == split]
    if not chosen:
        there = f"It has {', '.join(named)}." if named else "Its files' names tell no splits: set data.split=null."
        raise UserError(f"data.path={path} has no split {split}. {there}")
    return chosen


def _split_of(name: str) -> str | None:
    """The split that a file's name or folder tells, as the hub's layouts have it; None if it tells none."""
    path = PurePosixPath(name)
    if part := PART.fullmatch(path.name):
        return part["split"]
    base = path.stem.split("_")[0].split("-")[0]
    if base in USUAL_SPLITS:
        return path.stem if "-" not in path.stem else path.stem.split("-")[0]
    folder = path.parent.name
    return folder if folder.split("_")[0] in USUAL_SPLITS else None


def _missing(files: list[DataFile]) -> tuple[str, ...]:
    """The names of parts that are not there, without the hash that a name may end with."""
    present: dict[tuple[str, int], set[int]] = defaultdict(set)
    for file in files:
        path = PurePosixPath(file.name)
        if part := PART.fullmatch(path.name):
            present[str(path.parent / part["split"]), int(part["count"])].add(int(part["number"]))
    return tuple(
        f"{prefix}-{number:05d}-of-{count:05d}.parquet"
        for (prefix, count), numbers in present.items()
        for number in sorted(set(range(count)) - numbers)
    )

"""Reading files that lie elsewhere: by ranges, with patience, and through a cache on the local disk."""

import hashlib
import io
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fsspec.asyn import AsyncFileSystem

from mapolab.data.sources.http import filesystem_of
from mapolab.errors import RunError

Result = TypeVar("Result")
WAITS = (0.5, 1, 2, 4, 8, 16)  # seconds between the attempts
LONG_WAIT = 4  # seconds, from which on the user is told
PIECE = 4 << 20  # bytes kept in one file of the cache
CHECKSUM = 4  # bytes after each of them
LARGEST_READ = 8 * PIECE  # bytes asked for at once; what arrived before a failure stays
# Libraries whose errors mean that the network or a server failed, where they are no OSError.
NETWORK_LIBRARIES = {"aiohttp", "asyncio", "httpx", "httpx2", "requests", "urllib3", "botocore", "fsspec"}
FINAL_STATUS = {401, 403, 404, 410}


@dataclass(frozen=True)
class DataFile:
    """A file of a data set. name: below the data set's root. url: what fsspec opens, a plain path on a local disk.

    version: changes with the content, as the store tells; enough to find what was kept of the file, no proof of
    content.
    """

    name: str
    url: str
    size: int
    version: str


def with_retries(action: Callable[[], Result], what: str) -> Result:
    """The action's result; network errors are met with growing waits.

    Raises FileNotFoundError and PermissionError at once, and RunError when `what` does not answer after the last wait.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except Exception as error:
            if _is_final(error):
                raise _as_os_error(error) from None
            if wait is None:
                raise RunError(
                    f"{what} does not answer: {type(error).__name__} {' '.join(str(error).split())[:200]}, after "
                    f"{len(WAITS) + 1} attempts. Once it does, the same command continues the run."
                ) from None
            if wait >= LONG_WAIT:
                print(f"{what} does not answer ({type(error).__name__}); trying again in {wait} s.", file=sys.stderr)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether another attempt cannot help: the file is not there or not for us, or it is a mistake of ours."""
    if isinstance(error, FileNotFoundError | PermissionError) or _status(error) in FINAL_STATUS:
        return True
    network = isinstance(error, OSError | EOFError) or type(error).__module__.split(".")[0] in NETWORK_LIBRARIES
    return not network


def _as_os_error(error: Exception) -> Exception:
    """What a server's refusal means, whichever library tells it."""
    status = _status(error)
    if status in FINAL_STATUS:
        return (PermissionError if status in (401, 403) else FileNotFoundError)(str(error))
    return error


def _status(error: Exception) -> int | None:
    """The HTTP status, if the error stands for one."""
    return getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)


class RangeCache:
    """Pieces of files on the local disk, up to `limit` bytes; the least recently used go first.

    Any number of processes may share a folder: pieces are whole or absent, and one that another process has just
    removed is fetched again. Nothing is flushed to the disk on purpose: losing a piece costs a read. A piece ends with
    its CRC-32; one that is damaged, or of an earlier version that kept none, is fetched again.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.written = 0

    def get(self, file: DataFile, piece: int) -> bytes | None:
        """A piece, or None if it is not there or not whole."""
        path = self._path(file, piece)
        try:
            data = path.read_bytes()
            os.utime(path)  # the time of its last use, for `_shrink`
        except OSError:
            return None
        content, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        whole = len(content) == min(PIECE, file.size - piece * PIECE) and checksum == _checksum(content)
        return content if whole else None

    def put(self, file: DataFile, piece: int, data: bytes) -> None:
        """Keep a piece, if the disk has room for it."""
        path = self._path(file, piece)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data + _checksum(data))
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            return
        self.written += len(data)
        # Looking at every file takes time, so it is done once in a while: the limit may be passed by a tenth meanwhile.
        if self.written > min(self.limit / 10, 1 << 30):
            self.written = 0
            self._shrink()

    def _path(self, file: DataFile, piece: int) -> Path:
        name = hashlib.sha256(f"{file.url}\n{file.version}\n{file.size}\n{piece}".encode()).hexdigest()[:32]
        return self.folder / name[:2] / name

    def _shrink(self) -> None:
        pieces = []
        for path in self.folder.glob("*/*"):
            try:
                stat = path.stat()
            except OSError:  # another process was faster
                continue
            pieces.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in pieces)
        for _, size, path in sorted(pieces):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size


class RemoteFile(io.RawIOBase):
    """A remote file as pyarrow reads it. cache None: every read goes to the remote."""

    def __init__(self, file: DataFile, cache: RangeCache | None):
        self.file, self.cache, self.place = file, cache, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.file.size}[whence]
        self.place = base + offset
        return self.place

    def read(self, size: int = -1) -> bytes:
        """Raises FileNotFoundError, PermissionError, and RunError when the remote does not answer."""
        end = self.file.size if size is None or size < 0 else min(self.place + size, self.file.size)
        data = self._range(self.place, end) if end > self.place else b""
        self.place += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _range(self, start: int, end: int) -> bytes:
        if self.cache is None:
            return self._fetch(start, end)
        first, last = start // PIECE, (end - 1) // PIECE
        pieces = {number: self.cache.get(self.file, number) for number in range(first, last + 1)}
        absent = [number for number, data in pieces.items() if data is None]
        for run in _runs(absent, LARGEST_READ // PIECE):
            begin = run[0] * PIECE
            data = self._fetch(begin, min((run[-1] + 1) * PIECE, self.file.size))
            for number in run:
                pieces[number] = data[number * PIECE - begin : (number + 1) * PIECE - begin]
                self.cache.put(self.file, number, pieces[number])
        return b"".join(pieces[number] for number in range(first, last + 1))[
            start - first * PIECE : end - first * PIECE
        ]

    def _fetch(self, start: int, end: int) -> bytes:
        return with_retries(lambda: _read(self.file.url, start, end), self.file.url)


def open_remote(file: DataFile, cache: RangeCache | None) -> RemoteFile:
    """The file for reading; nothing is fetched before the first read."""
    return RemoteFile(file, cache)


def _read(url: str, start: int, end: int) -> bytes:
    filesystem, path = filesystem_of(url)
    options = {} if isinstance(filesystem, AsyncFileSystem) else {"cache_type": "none"}
    data = filesystem.cat_file(path, start=start, end=end, **options)
    if len(data) != end - start:
        raise EOFError(f"{len(data)} bytes came instead of {end - start}")
    return data


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM, "big")


def _runs(numbers: list[int], longest: int) -> list[list[int]]:
    """Consecutive numbers together, at most `longest` of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1 and len(runs[-1]) < longest:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs

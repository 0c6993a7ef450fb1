"""The folders that commands write: whose they are, and who is working on them.

A command writes into a folder that is not there, is empty, or holds what the same kind of command made before. Any
other folder is somebody's, and is refused before anything in it is touched.
"""

import contextlib
import fcntl
import fnmatch
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapolab.errors import RunError, UserError
from mapolab.files import UNFINISHED, errors_of, is_at, make_folder, read_json

LOCK = ".lock"
LOCK_TRIES = 20
UNFINISHED_FOLDER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""The names of folders that are being written: see `mapolab.training.folders`."""
# What systems put into any folder, and no user misses.
OF_THE_SYSTEM = (".DS_Store", "lost+found", ".nfs*")


@dataclass(frozen=True)
class Kind:
    """What commands make in a folder of its own.

    holds: in messages. option: what names the folder. manifest: a pattern of the files that say what the folder is, by
    these keys (dotted); without: keys of another kind. early: patterns of what a command that was killed may have left
    before the manifest. inside: kinds that may lie in such a folder, under other names than those in `own`.
    """

    holds: str
    option: str
    manifest: str
    keys: tuple[str, ...]
    without: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def is_at(self, folder: Path) -> bool:
        """Whether the folder has a whole manifest of this kind."""
        return any(map(self._says_so, self.manifests(folder)))

    def manifests(self, folder: Path) -> list[Path]:
        """The files that may say so."""
        return [file for file in folder.glob(self.manifest) if file.is_file()]

    def _says_so(self, file: Path) -> bool:
        try:
            found = read_json(file)
        except (OSError, ValueError, RecursionError):
            return False
        return all(_has(found, key) for key in self.keys) and not any(_has(found, key) for key in self.without)


# What of a run, or of another evaluated model, commands replace or remove.
_OF_A_RUN = ("checkpoints", "rollouts", "unet", "lora", "evaluation", "mismatch", "lightning_logs", "wandb")
_REPORTS = ("an export", "a comparison")
RUN = Kind(
    "a run", "output_dir", "manifest.json", ("status", "objective", "seed", "started"),
    early=("tracker.json", "requeues.json", "config.yaml"), inside=_REPORTS, own=_OF_A_RUN,
)  # fmt: skip
MODEL = Kind(
    "an evaluated model", "output_root", "manifest.json", ("status", "objective", "label"), without=("started",),
    inside=_REPORTS, own=_OF_A_RUN,
)  # fmt: skip
TINY_BASE = Kind("a tiny base", "output_dir", "report.json", ("machine",))
PAIRS = Kind("pairs", "output_dir", "manifest.json", ("settings.recipe",))
ROUNDS = Kind(
    "rounds", "output_dir", "manifest.json", ("settings.ranking",), inside=("a run", "pairs", "an export"),
)  # fmt: skip
COMPARISON = Kind("a comparison", "output_dir", "summary.json", ("mismatch",))
EXPORT = Kind("an export", "to", "export.json", ("settings.formats", "files"))
CACHE = Kind(
    "a cache", "data.cache_folder", "ingredients.json", ("data_fingerprint", "encoder_identity"),
)  # fmt: skip
SWEEP = Kind(
    "a sweep", "hydra.sweep.dir", "jobs/*.json", ("number", "arguments"),
    early=("multirun.yaml", "jobs", "logs", "trials", "study.*", ".submitit"),
    inside=("a run", "rounds", "pairs", "an evaluated model", "a cache", *_REPORTS), own=("jobs", "logs", "trials"),
)  # fmt: skip
CHECKPOINT = Kind("a checkpoint", "output_dir", "manifest.json", ("step", "files"))
KINDS = (RUN, MODEL, TINY_BASE, PAIRS, ROUNDS, COMPARISON, EXPORT, CACHE, SWEEP, CHECKPOINT)


class OutputFolder:
    """A folder that a command writes. lock: held while `locked`."""

    def __init__(self, path: Path, kind: Kind):
        self.path, self.kind = path, kind
        self.lock = Lock(path / LOCK)

    def check(self) -> None:
        """Raise UserError for what is no folder, a folder that holds something else or lies within one of ours, and for
        links in it by which the command would write elsewhere. Changes nothing."""
        path, other = self.path, f"Give another {self.kind.option}."
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a symbolic link to what is not there. {other}")
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, so {self.kind.holds} cannot be kept there. {other}")
        self._check_around()
        entries = sorted(os.scandir(path), key=lambda entry: entry.name) if path.exists() else []
        if foreign := [entry.name for entry in entries if not self._is_early(entry.name)]:
            if self.kind.manifests(path) and not self.kind.is_at(path):
                raise UserError(
                    f"{path} is not empty, and its {self.kind.manifest} is no whole one of {self.kind.holds}. Put that "
                    f"file back as it was, or give another {self.kind.option}."
                )
            if not self.kind.is_at(path):
                raise UserError(
                    f"{path} is not empty: it holds something else ({foreign[0]}) and no {self.kind.manifest} of "
                    f"{self.kind.holds}. Nothing in it was touched. {other}"
                )
        for entry in entries:
            if entry.is_symlink():
                check_inside(path, Path(entry.path))

    def _check_around(self) -> None:
        """Commands remove and replace what lies in their folders, so nothing else may lie there."""
        path = self.path.resolve()
        for parent in path.parents:
            around = next((kind for kind in KINDS if kind.is_at(parent)), None)
            name = path.relative_to(parent).parts[0]
            if around and (self.kind.holds not in around.inside or name in around.own):
                raise UserError(
                    f"{self.path} lies within {parent}, which is {around.holds}: what is there may be replaced or "
                    f"removed. Give another {self.kind.option}."
                )

    def _is_early(self, name: str) -> bool:
        """Whether a killed command may have left a file of this name before its manifest."""
        known = any(fnmatch.fnmatchcase(name, pattern) for pattern in (LOCK, *OF_THE_SYSTEM, *self.kind.early))
        return known or bool(UNFINISHED.fullmatch(name) or UNFINISHED_FOLDER.fullmatch(name))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Check the folder, make it if need be, and keep other processes out for the block.

        Raises UserError as `check`, and if another process has it.
        """
        self.check()
        make_folder(self.path)
        if not self.lock.acquire():
            raise UserError(
                f"Another process is working on {self.path}. Wait for it, or give this command another "
                f"{self.kind.option}."
            )
        try:
            self.check()  # again: another command may have begun there a moment ago
            yield
        finally:
            self.lock.release()


class Lock:
    """A file that one process at a time holds. The system drops the lock with the process, however that dies.

    It counts while the file on the disk is the one that is held: whoever removes it lets another process in.
    """

    def __init__(self, file: Path):
        self.file = file
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock in a folder that is there. Returns whether it was free; wait: until it is."""
        for attempt in range(LOCK_TRIES):
            # No link is followed, and nothing cut: the folder may be another's.
            with errors_of(self.file):
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    if is_at(descriptor, self.file):
                        self._descriptor = descriptor
                        return True
                except BlockingIOError:  # `is_held` of another process has it for an instant
                    if attempt < LOCK_TRIES - 1:
                        time.sleep(0.05)
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        return False

    def release(self, remove: bool = False) -> None:
        """Let go of the lock. remove: and of its file."""
        if self._descriptor is None:
            return
        if remove and not self.is_lost():
            self.file.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def is_lost(self) -> bool:
        """Whether the lock was taken, and its file is no longer the one on the disk."""
        return self._descriptor is not None and not is_at(self._descriptor, self.file)

    def check(self) -> None:
        """Raise RunError if the lock is lost: another process may be at work where this one is."""
        if self.is_lost():
            raise RunError(
                f"{self.file} was removed or replaced while this process worked, so another one may be at work in that "
                "folder. This one stopped and wrote nothing more there; what it saved before is sound. Leave that file "
                "alone, and give the same command again when no other process is at it."
            )

    def is_held(self) -> bool:
        """Whether a process holds it now."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def check_inside(folder: Path, path: Path) -> None:
    """Raise UserError if `path` leads out of `folder` by a symbolic link: what is written there lands elsewhere."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} leads out of {folder}, to {path.resolve()}, by a symbolic link; mapolab writes within a folder "
            "alone. Put what belongs there in its place, or remove the link."
        )


def _has(found: Any, key: str) -> bool:
    """Whether a JSON value has a dotted key."""
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True

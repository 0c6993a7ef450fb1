"""The folder of what a command makes step by step: whose it is, and whether it is whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Required

from typing_extensions import TypedDict

from mapolab import files
from mapolab.config.environment_values import hide
from mapolab.errors import UserError
from mapolab.output import Kind, OutputFolder
from mapolab.reading import read_object
from mapolab.runs import differences, environment, timestamp

MANIFEST = "manifest.json"


class ResultManifest(TypedDict, total=False):
    """manifest.json of a folder that a command fills step by step. counts, means: of pairs; rounds: of an iteration."""

    status: Required[Literal["running", "finished"]]
    settings: dict[str, Any]
    restarts: int
    files: list[str]
    counts: dict[str, Any]
    means: dict[str, dict[str, float]]
    rounds: int


class ResultFolder:
    """kind: of what is in it, `PAIRS` or `ROUNDS`. Its manifest.json has the settings that decided them."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self.output = OutputFolder(path, kind)

    def manifest(self) -> ResultManifest | dict[str, Any]:
        """Empty for a new folder. Raises UserError for one that holds something else, or whose manifest is broken."""
        self.output.check()
        if not (self.path / MANIFEST).exists():
            return {}
        fix = f"Give another output_dir, or remove the folder to make its {self.kind.holds} anew."
        return read_object(self.path / MANIFEST, ResultManifest, fix)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out for the block. Raises UserError if another process has the folder, and for one that
        holds something else."""
        with self.output.locked():
            yield

    def check(self, settings: dict[str, Any]) -> None:
        """Raise UserError if the folder holds what came about in another way, naming the difference."""
        before = self.manifest()
        if before and (changed := differences(before.get("settings"), settings)):
            raise UserError(
                f"{self.path} holds {self.kind.holds} that were made in another way ({'; '.join(changed)}). Give these "
                "another output_dir, or remove the folder."
            )

    def is_finished(self) -> bool:
        """Whether all of it is there, every file that the manifest lists."""
        manifest = self.manifest()
        whole = all((self.path / name).is_file() for name in manifest.get("files", []))
        return manifest.get("status") == "finished" and whole

    def claim(self, settings: dict[str, Any], **noted: Any) -> None:
        """Begin the manifest, with what is noted beside the settings, or count a restart, and remove what a killed
        command left of unfinished files."""
        self.output.lock.check()
        files.sweep(self.path)
        before = self.manifest()
        fresh = {"command": hide(" ".join(sys.argv)), "started": timestamp(), "restarts": -1, "settings": settings}
        about = fresh | noted | environment() | before
        about |= {"status": "running", "finished": None, "restarts": about["restarts"] + 1}
        files.write_json(self.path / MANIFEST, about)

    def finish(self, **found: Any) -> None:
        """Complete the manifest. Raises RunError if the folder's lock was lost."""
        self.output.lock.check()
        about = self.manifest() | found
        files.write_json(self.path / MANIFEST, about | {"status": "finished", "finished": timestamp()})

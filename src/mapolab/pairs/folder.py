"""The folder of what a command makes step by step: whose it is, and whether it is whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapolab import files
from mapolab.errors import UserError
from mapolab.output import Kind, OutputFolder
from mapolab.runs import differences, environment, timestamp

MANIFEST = "manifest.json"


class ResultFolder:
    """kind: of what is in it, `PAIRS` or `ROUNDS`. Its manifest.json has the settings that decided them."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self.output = OutputFolder(path, kind)

    def manifest(self) -> dict[str, Any]:
        """Empty for a new folder. Raises UserError for one that holds something else."""
        self.output.check()
        return files.read_json(self.path / MANIFEST) if (self.path / MANIFEST).is_file() else {}

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
        fresh = {"command": " ".join(sys.argv), "started": timestamp(), "restarts": -1, "settings": settings}
        about = fresh | noted | environment() | before
        about |= {"status": "running", "finished": None, "restarts": about["restarts"] + 1}
        files.write_json(self.path / MANIFEST, about)

    def finish(self, **found: Any) -> None:
        """Complete the manifest. Raises RunError if the folder's lock was lost."""
        self.output.lock.check()
        about = files.read_json(self.path / MANIFEST) | found
        files.write_json(self.path / MANIFEST, about | {"status": "finished", "finished": timestamp()})

"""The folder of what a command makes step by step: whose it is, and whether it is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mapolab import files
from mapolab.errors import UserError
from mapolab.runs import differences, environment, timestamp

MANIFEST = "manifest.json"


class ResultFolder:
    """holds: what is in it, for the messages, such as `pairs`. Its manifest.json has the settings that decided them."""

    def __init__(self, path: Path, holds: str) -> None:
        self.path, self.holds = path, holds

    def manifest(self) -> dict[str, Any]:
        """Empty for a new folder. Raises UserError for one that holds something else."""
        if (self.path / MANIFEST).is_file():
            return files.read_json(self.path / MANIFEST)
        if there := sorted(entry.name for entry in self.path.glob("[!.]*")):
            raise UserError(
                f"{self.path} holds something else ({there[0]}) and no manifest of {self.holds}. Give another "
                "output_dir."
            )
        return {}

    def check(self, settings: dict[str, Any]) -> None:
        """Raise UserError if the folder holds what came about in another way, naming the difference."""
        before = self.manifest()
        if before and (changed := differences(before.get("settings"), settings)):
            raise UserError(
                f"{self.path} holds {self.holds} that were made in another way ({'; '.join(changed)}). Give these "
                "another output_dir, or remove the folder."
            )

    def is_finished(self) -> bool:
        """Whether all of it is there, every file that the manifest lists."""
        manifest = self.manifest()
        whole = all((self.path / name).is_file() for name in manifest.get("files", []))
        return manifest.get("status") == "finished" and whole

    def claim(self, settings: dict[str, Any]) -> None:
        """Begin the manifest, or count a restart, and remove what a killed command left of unfinished files."""
        for file in self.path.glob(".*.tmp"):
            file.unlink()
        before = self.manifest()
        fresh = {"command": " ".join(sys.argv), "started": timestamp(), "restarts": -1, "settings": settings}
        about = fresh | environment() | before
        about |= {"status": "running", "finished": None, "restarts": about["restarts"] + 1}
        files.write_json(self.path / MANIFEST, about)

    def finish(self, **found: Any) -> None:
        """Complete the manifest."""
        about = files.read_json(self.path / MANIFEST) | found
        files.write_json(self.path / MANIFEST, about | {"status": "finished", "finished": timestamp()})

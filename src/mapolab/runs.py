"""One run, one folder: its name, its lock, its config and its manifest.

The same command finds the same folder again, because the name is a function of the config. What is in the folder says
whether the run is new, stopped in the middle, or finished.
"""

import contextlib
import os
import platform
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from mapolab.config.environment_values import as_saved, hide
from mapolab.config.identity import EARLIER, as_earlier, identity, run_folder
from mapolab.config.rollout import reward_label
from mapolab.errors import UserError
from mapolab.files import content_key, write_json, write_text
from mapolab.output import RUN, OutputFolder
from mapolab.reading import read_object
from mapolab.run_files import Requeue, Tracker, read_config, read_manifest, with_checksum

PACKAGES = ("mapolab", "torch", "lightning", "diffusers", "transformers", "safetensors", "numpy")


class RunFolder:
    """The folder of a run. Files: config.yaml, manifest.json, metrics.csv, checkpoints/, at the end unet/."""

    def __init__(self, path: Path):
        self.path = path
        self.output = OutputFolder(path, RUN)
        self.manifest_file = path / "manifest.json"
        self.requeues_file = path / "requeues.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out for the block. Raises UserError if another process has the folder, and for a folder
        that is no run's."""
        with self.output.locked():
            yield

    def is_locked(self) -> bool:
        """Whether a process is working on the run now."""
        return self.output.lock.is_held()

    def tracker_id(self) -> str:
        """The run's name at an experiment tracker: drawn once and kept, so that a restart is no second run, and the
        same config in another folder is none of this one."""
        file = self.path / "tracker.json"
        if not file.exists():
            write_json(file, {"id": f"{self.path.name[:48]}-{secrets.token_hex(4)}"})
        return read_object(file, Tracker, "Remove it, and the tracker shows the run under a new name.")["id"]

    def requeues(self) -> list[dict[str, Any]]:
        """Each time that the run's Slurm job was requeued: time, job, step, reason. Apart from the manifest, because a
        job may be preempted before there is one."""
        file = self.requeues_file
        return read_object(file, list[Requeue], "Remove it, and requeues are counted anew.") if file.exists() else []

    def note_requeues(self, requeues: list[dict[str, Any]]) -> None:
        """Replace that list."""
        write_json(self.requeues_file, requeues)

    def checkpoints(self) -> list[Path]:
        """Oldest first. What else lies there, such as a copy under another name, is none."""
        return numbered_folders(self.path / "checkpoints", "step")

    def last_saved_step(self) -> int:
        """The optimizer step of the newest checkpoint; 0 without one."""
        return max((number_of(checkpoint) for checkpoint in self.checkpoints()), default=0)

    def check(self, config: dict[str, Any]) -> None:
        """Raise UserError if the folder holds a run with another config, or if the same command began a run under an
        earlier version, which had other defaults, and that one is not finished."""
        saved = self.config()
        if not saved:
            earlier = RunFolder(run_folder(as_earlier(config)))
            check_earlier(earlier.path, earlier.config(), earlier.finished)
        elif changed := _changed(saved, config):
            raise UserError(
                f"{self.path} holds a run with another config ({'; '.join(changed)}). Give the values of before to "
                "continue that run, or give the new one another output_dir, or remove the folder."
            )

    def config(self) -> dict[str, Any]:
        """The resolved config of the run; empty for a new one."""
        return read_config(self.path) if (self.path / "config.yaml").exists() else {}

    def claim(self, config: dict[str, Any]) -> None:
        """Make the folder this run's: save the resolved config, begin the manifest or count a restart."""
        write_text(self.path / "config.yaml", yaml.safe_dump(as_saved(config), sort_keys=False, allow_unicode=True))
        before = self.manifest()
        self.update(**({"status": "running", "restarts": before["restarts"] + 1} if before else new_manifest(config)))

    def manifest(self) -> dict[str, Any]:
        """What is recorded about the run; empty for a new one."""
        return read_manifest(self.path) if self.manifest_file.exists() else {}

    @property
    def identity(self) -> str | None:
        """What its checkpoints are marked with; None for a new run, and for one that an earlier version wrote."""
        return self.manifest().get("identity")

    def update(self, **fields: Any) -> None:
        """Set fields of the manifest. Raises RunError if the folder's lock was lost."""
        self.output.lock.check()
        write_json(self.manifest_file, with_checksum(self.manifest() | fields, "manifest"))

    def check_model(self, files: dict[str, str]) -> None:
        """Raise UserError if the run has begun from another model. files: a hash of each of its parts."""
        before = self.manifest().get("model_files")
        begun = self.last_saved_step() or self.manifest().get("status") == "finished"
        if begun and (changed := changed_parts(before, files)):
            raise UserError(
                f"{self.path} holds a run that began from another model: its {', '.join(changed)} has changed since, "
                "under the same name. Put the files back, or give the new run another output_dir."
            )

    @property
    def finished(self) -> bool:
        """Whether the run is at its end, and its weights are there."""
        return self.manifest().get("status") == "finished" and final_weights(self.path) is not None


def run_identity(config: dict[str, Any], model_files: dict[str, str]) -> str:
    """Names all that decides a run's weights: its config with the seed, and the files of the model it begins with."""
    return content_key([identity(config), model_files])


def numbered_folders(folder: Path, name: str) -> list[Path]:
    """`<name>-<8 digits or more>` in a folder, by number."""
    found = [entry for entry in folder.glob(f"{name}-*") if re.fullmatch(rf"{name}-\d{{8,}}", entry.name)]
    return sorted(found, key=number_of)


def number_of(folder: Path) -> int:
    """The number of a `numbered_folders`."""
    return int(folder.name.rpartition("-")[2])


def final_weights(run: Path) -> Path | None:
    """The folder of a finished run's weights: `unet/` or `lora/`; None if they are gone."""
    return next((run / name for name in ("unet", "lora") if any((run / name).glob("*.safetensors"))), None)


def _changed(saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """`differences` of what decides the weights; an earlier version saved secrets' values, too."""
    if changed := differences(identity(saved), identity(as_saved(config))):
        return changed if differences(identity(saved), identity(config)) else []
    return []


def changed_parts(before: dict[str, str] | None, files: dict[str, str]) -> list[str]:
    """The parts of a model whose hashes are not those that a manifest has; none for one of an earlier version."""
    return [part for part in files if before and before.get(part) != files[part]]


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """`key: before -> now` for every key, at any depth, whose value differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{path}.{key}".removeprefix("."))
        ]
    return [] if before == now else [f"{path}: {_told(path, before)} -> {_told(path, now)}"]


def _told(path: str, value: Any) -> Any:
    told = EARLIER.get(path) if value is None else value
    return f"{told[:77]}..." if isinstance(told, str) and len(told) > 80 else told


def check_earlier(folder: Path, config: dict[str, Any], finished: bool) -> None:
    """Raise UserError for what this command began, but did not finish, before a key existed. config: of the run in it;
    empty for none."""
    if config and "micro_conditioning" not in config["data"] and not finished:
        raise UserError(
            f"{folder} is what this command began before data.micro_conditioning existed, and did not finish: SDXL was "
            "told each image's own size. Add data.micro_conditioning=own to continue it, or remove the folder to begin "
            "anew."
        )


def label(objective: dict[str, Any], rollout: dict[str, Any] | None = None) -> str:
    """A run's name in tables: `mapo beta=8`; around another objective `sdpo base=dmpo beta=6000 mu=0.6`; with a rollout
    also what it is rewarded for."""
    words = [objective["name"]]
    for key, value in objective.items():
        if isinstance(value, dict):
            words.append(f"{key}={label(value)}")
        elif key != "name":
            words.append(f"{key}={value:g}")
    if rollout:
        words.append(f"reward={'+'.join(map(reward_label, rollout['rewards']))}")
    return " ".join(words)


def new_manifest(config: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that starts now."""
    return {
        "status": "running",
        "name": config["name"],
        "objective": config["objective"],
        "seed": config["seed"],
        "label": label(config["objective"], config["rollout"]),
        "command": hide(" ".join(sys.argv), config),
        "started": timestamp(),
        "finished": None,
        "wall_seconds": 0.0,
        "restarts": 0,
        **environment(),
    }


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on beside its config: versions, commit, hardware."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if cuda else "cpu",
            "threads": torch.get_num_threads(),
        },
    }


def timestamp() -> str:
    """Now, as 2025-01-31T12:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that the package runs from; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        # An installed package may lie inside some other project's checkout; only its own sources count.
        if not (Path(__file__).parents[2] / ".git").exists():
            return None
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

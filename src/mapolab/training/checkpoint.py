"""Checkpoints as folders that are whole or absent, and that open in diffusers.

    step-00000040/
        unet/config.json, unet/diffusion_pytorch_model.safetensors     the weights, in diffusers' layout; or
        lora/pytorch_lora_weights.safetensors                           the adapters, likewise
        training_state.json, training_state.safetensors                 everything else that Lightning saves
        manifest.json                                                   the SHA-256 of each file, written last

Lightning's own checkpoint is one pickle, staged in $TMPDIR and then moved; a kill during the move across devices
replaced a good file by a torn one. Here a folder is written beside its place, flushed, and renamed.
"""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mapolab.files import fsync_folder, read_json, sha256, write_json, write_text
from mapolab.models.saved import folder_name, read_weights, save_tensors, write_weights
from mapolab.training.inert import from_inert, to_inert


class FolderCheckpointIO(CheckpointIO):
    """Lightning's plugin for reading and writing checkpoints, as folders of safetensors and JSON."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the folder `path`. Raises TypeError for a state that is neither JSON nor tensors."""
        path = Path(path)
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        about = checkpoint["weights"]
        tensors: dict[str, Tensor] = {}
        state = to_inert(rest, tensors)
        with FolderWriter(path) as folder:
            write_weights(folder / folder_name(about), checkpoint["state_dict"], about)
            save_tensors(tensors, folder / "training_state.safetensors")
            # One line: an optimizer has thousands of entries.
            write_text(folder / "training_state.json", json.dumps(state))
            write_json(folder / "manifest.json", {"step": checkpoint["global_step"], "files": hashes(folder)})

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the folder `path`; tensors are on the CPU and Lightning moves them. The files hold nothing but data."""
        path = Path(path)
        rest = from_inert(read_json(path / "training_state.json"), load_file(path / "training_state.safetensors"))
        return {**rest, "state_dict": read_weights(path / folder_name(rest["weights"]), rest["weights"])}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; out of sight first, so that a kill cannot leave half of it in its place."""
        discard(Path(path))


class FolderWriter:
    """A new folder for the `with` block; it takes its place, flushed to the disk, when the block ends without error."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Path:
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        for folder, _, _ in os.walk(self.temporary):
            fsync_folder(folder)
        if self.path.exists():
            discard(self.path)
        self.temporary.rename(self.path)
        fsync_folder(self.path.parent)


def hashes(folder: Path) -> dict[str, str]:
    """relative path -> SHA-256 of each file in the folder but its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is there and as it was written."""
    try:
        recorded = read_json(folder / "manifest.json")["files"]
        found = hashes(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"its manifest is unreadable ({type(error).__name__})"
    damaged = sorted(name for name in recorded if found.get(name) != recorded[name])
    return f"{damaged[0]} is missing or damaged" if damaged else None


def discard(folder: Path) -> None:
    """Remove a folder: first its name, in one step, then its content."""
    doomed = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)

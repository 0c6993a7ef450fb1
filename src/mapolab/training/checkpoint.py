"""Checkpoints as folders that are whole or absent, and that open in diffusers.

    step-00000040/
        unet/config.json, unet/diffusion_pytorch_model.safetensors     the weights, in diffusers' layout; or
        lora/pytorch_lora_weights.safetensors                           the adapters, likewise
        training_state.json, training_state.safetensors                 everything else that Lightning saves
        manifest.json                                                   the format, the run, the SHA-256 of each file

Lightning's own checkpoint is one pickle, staged in $TMPDIR and then moved; a kill during the move across devices
replaced a good file by a torn one. Here a folder is written beside its place, flushed, and renamed.
"""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mapolab.errors import UserError
from mapolab.files import write_json, write_text
from mapolab.models.saved import folder_name, read_weights, save_tensors, write_weights
from mapolab.reading import read_object
from mapolab.training.folders import FolderWriter, discard, hashes, read_folder_manifest
from mapolab.training.inert import from_inert, to_inert
from mapolab.training.resume import check_identity
from mapolab.training.shards import put_together, read_pieces

# 1: without this number, and never divided. 2: with it; a sharded strategy may write a file for each rank.
FORMAT = 2
ASIDE = "Move it elsewhere, and the same command continues from the one before."


class FolderCheckpointIO(CheckpointIO):
    """Lightning's plugin for reading and writing checkpoints, as folders of safetensors and JSON.

    in_background: write in a thread while training goes on, from a copy in CPU memory; an error shows at the next
    checkpoint or at `finish`. identity: of the run, which its checkpoints carry; None: they carry none.
    """

    def __init__(self, in_background: bool = False, identity: str | None = None):
        self.identity = identity
        self.thread = ThreadPoolExecutor(1) if in_background else None
        self.pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the folder `path`. Raises TypeError for a state that is neither JSON nor tensors."""
        self.finish()
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        tensors: dict[str, Tensor] = {}
        state = to_inert(rest, tensors)
        parts = checkpoint["state_dict"], checkpoint["weights"], tensors, state
        if self.thread is None:
            self._write(Path(path), *parts)
            return
        weights, about, tensors, state = parts
        self.pending = self.thread.submit(self._write, Path(path), _copies(weights), about, _copies(tensors), state)

    def finish(self) -> None:
        """Wait for what is being written. Raises what went wrong."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the folder `path`; tensors are on the CPU and Lightning moves them. The files hold nothing but data.

        Raises UserError for a format of another version, and for a checkpoint of another run.
        """
        path = Path(path)
        check_format(path)
        check_identity(path, self.identity)
        state = read_object(path / "training_state.json", dict[str, Any], ASIDE, any_number=True)
        try:
            rest = from_inert(state, load_file(path / "training_state.safetensors"))
            if pieces := read_pieces(path):
                return put_together(rest, pieces)
            return {**rest, "state_dict": read_weights(path / folder_name(rest["weights"]), rest["weights"])}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"The checkpoint {path} is none that mapolab wrote ({type(error).__name__}: {error}). {ASIDE}"
            ) from None

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; out of sight first, so that a kill cannot leave half of it in its place."""
        discard(Path(path))

    def teardown(self) -> None:
        self.finish()

    def write_divided(self, folder: Path, rest: dict[str, Any], known: dict[str, str]) -> None:
        """Rank 0's part of a checkpoint whose tensors the ranks have written; see `training.shards`."""
        tensors: dict[str, Tensor] = {}
        state = to_inert(rest, tensors)
        self._write_state(folder, tensors, state, known)

    def _write(
        self, path: Path, weights: dict[str, Tensor], about: dict[str, Any], tensors: dict[str, Tensor], state: Any
    ) -> None:
        with FolderWriter(path) as folder:
            write_weights(folder / folder_name(about), weights, about)
            self._write_state(folder, tensors, state)

    def _write_state(
        self, folder: Path, tensors: dict[str, Tensor], state: Any, known: dict[str, str] | None = None
    ) -> None:
        save_tensors(tensors, folder / "training_state.safetensors")
        # One line: an optimizer has thousands of entries.
        write_text(folder / "training_state.json", json.dumps(state))
        about = {"format": FORMAT, "step": state["global_step"], "run": self.identity}
        write_json(folder / "manifest.json", about | {"files": hashes(folder, known)})


def check_format(folder: Path) -> None:
    """Raise UserError for a checkpoint that a later version wrote. Older ones are read as they are: format 1 differs
    from 2 in nothing but what 2 adds."""
    found = read_folder_manifest(folder).get("format", 1)
    if found > FORMAT:
        raise UserError(
            f"{folder} has format {found}; this version of mapolab reads up to {FORMAT}. Continue the run with the "
            "version that wrote it (manifest.json names it), or install a newer one."
        )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, in storages that training does not change."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

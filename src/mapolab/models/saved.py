"""Trained weights on the disk, as diffusers reads them: `unet/` with all of a UNet, or `lora/` with adapters
and perhaps a learned token.

`about` says which: {"unet_config": diffusers' config.json}, or {"lora_metadata": ..., "names": the trained tensors,
"token": {"token": ..., "initial": ...} or None}.
"""

import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mapolab.errors import UserError
from mapolab.files import errors_of, open_to_others, write_json
from mapolab.models.learned_token import TOKEN_FILE, file_key
from mapolab.models.lora import to_file_name
from mapolab.models.lora_files import LORA_FILE
from mapolab.models.readers import read_whole

WEIGHTS = "diffusion_pytorch_model.safetensors"
PREFIX = "unet."


def folder_name(about: dict[str, Any]) -> str:
    """`lora` or `unet`."""
    return "lora" if "lora_metadata" in about else "unet"


def write_weights(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the content of `unet/` or `lora/`. Not atomic by itself: for use inside a FolderWriter.

    weights: by their names in the training module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "lora_metadata" in about:
        rows = {key: tensor for name, tensor in weights.items() if (key := file_key(name))}
        named = {to_file_name(name): tensor for name, tensor in weights.items() if file_key(name) is None}
        save_tensors(named, folder / LORA_FILE, about["lora_metadata"])
        if rows:
            save_tensors(rows, folder / TOKEN_FILE, {"format": "pt", **about["token"]})
        return
    write_json(folder / "config.json", about["unet_config"])
    save_tensors({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}, folder / WEIGHTS)


def read_weights(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    """What `write_weights` wrote, by the names in the training module. Raises UserError for what is not there."""
    if "lora_metadata" not in about:
        return {PREFIX + name: tensor for name, tensor in read_whole(folder / WEIGHTS, "The UNet")[0].items()}
    saved = {to_file_name(key): tensor for key, tensor in read_whole(folder / LORA_FILE, "The LoRA")[0].items()}
    if about.get("token"):
        saved |= read_whole(folder / TOKEN_FILE, "The learned token's file")[0]
    wanted = {name: file_key(name) or to_file_name(name) for name in about["names"]}
    if lost := next((key for key in wanted.values() if key not in saved), None):
        raise UserError(f"The weights in {folder} lack {lost}: they are not those of this run. Put them back.")
    return {name: saved[key] for name, key in wanted.items()}


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file and flush it to the disk. Not atomic by itself."""
    content = {name: _alone(tensor.detach().contiguous().cpu()) for name, tensor in tensors.items()}
    with errors_of(path):
        save_file(content, path, metadata or {"format": "pt"})
        open_to_others(path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in a storage of its own: FSDP puts many into one, which safetensors refuses."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

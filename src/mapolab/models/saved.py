"""Trained weights on the disk, as diffusers reads them: `unet/` with all of a UNet, or `lora/` with adapters
and perhaps a learned token.

`about` says which: {"unet_config": diffusers' config.json}, or {"lora_metadata": ..., "names": the trained tensors,
"token": {"token": ..., "initial": ...} or None}.
"""

import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mapolab.files import errors_of, open_to_others, write_json
from mapolab.models.learned_token import TOKEN_FILE, file_key
from mapolab.models.lora import to_file_name
from mapolab.models.lora_files import LORA_FILE

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
    """What `write_weights` wrote, by the names in the training module. Raises KeyError for one that is not there."""
    if "lora_metadata" in about:
        saved = {to_file_name(key): tensor for key, tensor in load_file(folder / LORA_FILE).items()}
        if about.get("token"):
            saved |= load_file(folder / TOKEN_FILE)
        return {name: saved[file_key(name) or to_file_name(name)] for name in about["names"]}
    return {PREFIX + name: tensor for name, tensor in load_file(folder / WEIGHTS).items()}


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

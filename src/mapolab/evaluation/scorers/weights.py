"""Where a scorer's weights come from: a path that the config names, else the hub's cache, else the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError

from mapolab.errors import UserError
from mapolab.hashes import tree_hashes
from mapolab.models.hub import fetch, is_hub_name


def weights_file(scorer: str, weights: str | None, repository: str, name: str) -> Path:
    """The file `weights` (or `name` in that folder), else `name` of the repository on the hub.

    Raises UserError that says which file is missing and where to put it.
    """
    where = f"{{_target_: {scorer}, weights: <path of {name}>}} in place of {scorer}"
    if weights is not None:
        path = Path(weights).expanduser()
        path = path / name if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"The scorer {scorer} has no weights at {path}. Put {name} of {repository} there.")
        return path
    try:
        return Path(hf_hub_download(repository, name))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"The scorer {scorer} needs {name} of {repository} (hub), which is not in the local cache and could not be "
            f"fetched ({type(error).__name__}). Connect to the network, or download it elsewhere and name it: {where}."
        ) from None


def weights_folder(scorer: str, weights: str, setting: str = "weights", option: str | None = None) -> Path:
    """The folder `weights`, or the snapshot of the hub's repository of that name. Raises UserError without either.

    option: how to give a folder, where it is not as a `setting` of the scorer.
    """
    if Path(weights).expanduser().is_dir():
        return Path(weights).expanduser()
    if not is_hub_name(weights):
        raise UserError(f"The scorer {scorer} has no weights at {weights}: there is no such folder.")
    wanted = ["*.json", "*.txt", "*.safetensors"]
    option = option or f"{{_target_: {scorer}, {setting}: <its folder>}} in place of {scorer}"
    return fetch(weights, None, wanted, None, option)


def read_checkpoint(scorer: str, path: Path) -> Any:
    """What a .safetensors, .pt or .pth file holds; never unpickles more than tensors. Raises UserError if broken."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"The weights of {scorer} in {path} cannot be read ({type(error).__name__}: {_first_line(error)}). "
            "Download the file again."
        ) from None


def fill(scorer: str, module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load all of the tensors, or raise UserError that says what does not fit."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        lines = str(error).splitlines()
        detail = lines[1].strip() if len(lines) > 1 else lines[0]
        raise UserError(f"{path} does not hold the weights of {scorer}: {detail[:300]}") from None


def load_whole(scorer: str, kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model of transformers from a folder: every tensor of the model from its file, or UserError that says which not.

    transformers itself would fill what is missing with random numbers. It reads the .safetensors files of the folder,
    as `identity` does.
    """
    try:
        model, found = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"The weights of {scorer} in {folder} cannot be read ({type(error).__name__}: {_first_line(error)}). "
            "Download the folder again, with its .safetensors files."
        ) from None
    # Older files of CLIP hold these numbers 0, 1, 2 ..., which are no weights.
    unexpected = [name for name in found["unexpected_keys"] if not name.endswith("position_ids")]
    wrong = {"lacks": found["missing_keys"], "has in another shape": found["mismatched_keys"], "adds": unexpected}
    if told := [f"it {what} {sorted(map(str, names))[0]}" for what, names in wrong.items() if names]:
        raise UserError(f"{folder} does not hold the weights of {scorer}: {'; '.join(told)}. Download it again.")
    return model


def identity(*paths: Path) -> list[str]:
    """SHA-256 of each file; of a folder, `name:sha256` of every weight, config and vocabulary in it."""
    kinds = (".safetensors", ".json", ".txt")
    found = []
    for path in paths:
        inside = sorted(file for file in path.iterdir() if file.suffix in kinds) if path.is_dir() else []
        found += [f"{file.name}:{tree_hashes(file)[0]}" for file in inside] or tree_hashes(path)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]

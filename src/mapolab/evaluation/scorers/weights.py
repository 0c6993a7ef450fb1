"""Where a scorer's weights come from: a path that the config names, else the hub's cache, else the network; and how
they get into its model: each tensor has its place and each place its tensor, or the file is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from torch import nn

from mapolab import files
from mapolab.errors import UserError
from mapolab.hashes import remembered, tree_hashes
from mapolab.models import weights as model_weights
from mapolab.models.hub import PINNED, fetch, is_hub_name
from mapolab.models.parts import build, few_modules, try_out
from mapolab.models.readers import read_settings
from mapolab.models.weights import Place, find_weights, is_finite

Renamed = Callable[[str, torch.Tensor], list[tuple[str, torch.Tensor]]]


def weights_file(scorer: str, weights: str | None, repository: str, name: str) -> Path:
    """The file `weights` (or `name` in that folder), else `name` of the repository on the hub, at its pinned commit.

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
        return Path(hf_hub_download(repository, name, revision=PINNED[repository]))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"The scorer {scorer} needs {name} of {repository} (hub), which is not in the local cache and could not be "
            f"fetched ({type(error).__name__}). Connect to the network, or download it elsewhere and name it: {where}."
        ) from None


def published_file(scorer: str, address: str, sha256: str, option: str) -> Path:
    """A published file from the web in torch's cache, fetched there once; the one with this SHA-256 and no other.

    option: how to name another place. Raises UserError where it cannot be had, or is another file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: another hash
            raise UserError(
                f"{scorer} needs {path.name}, which could not be fetched from {address} ({type(error).__name__}). Put "
                f"it at {path}, or name it: {option}."
            ) from None
    if remembered(path, "sha256", files.sha256) != sha256:
        raise UserError(
            f"{path} is not the file that {scorer} was published with. Remove it, to have it fetched again."
        )
    return path


def weights_folder(scorer: str, weights: str, setting: str = "weights", option: str | None = None) -> Path:
    """The folder `weights`, or the snapshot of the hub's repository of that name, `owner/name` or `owner/name@commit`.

    option: how to give a folder, where it is not as a `setting` of the scorer. Raises UserError without either.
    """
    if Path(weights).expanduser().is_dir():
        return Path(weights).expanduser()
    name, _, revision = weights.partition("@")
    if not is_hub_name(name):
        raise UserError(f"The scorer {scorer} has no weights at {weights}: there is no such folder.")
    wanted = ["*.json", "*.txt", "*.safetensors"]
    option = option or f"{{_target_: {scorer}, {setting}: <its folder>}} in place of {scorer}"
    return fetch(name, revision or None, wanted, None, option)


def fill(scorer: str, module: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load all of the tensors, or raise UserError that says what does not fit. module: may be on the meta device, where
    this only checks."""
    expected = module.state_dict()
    # Of a batch norm, and used in training alone; files from before it was there lack it.
    lacking = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    surplus = [name for name in tensors if name not in expected]
    both = [name for name in expected if name in tensors]
    shapes = [name for name in both if expected[name].shape != tensors[name].shape]
    kinds = [name for name in both if expected[name].is_floating_point() != tensors[name].is_floating_point()]
    wrong = {
        "lacks": lacking, "adds": surplus, "has in another shape": shapes, "has as another kind of number": kinds
    }  # fmt: skip
    if not any(wrong.values()):
        wrong = {"has numbers that are not finite in": [name for name in both if not is_finite(tensors[name])]}
    if told := [f"it {what} {_some(names)}" for what, names in wrong.items() if names]:
        raise UserError(f"{path} does not hold the weights of {scorer}: {'; '.join(told)}. Download it again.")
    if not any(tensor.is_meta for tensor in expected.values()):
        module.load_state_dict(tensors)


def make_fitting(
    scorer: str,
    make: Callable[[], nn.Module],
    tensors: dict[str, torch.Tensor],
    path: Path,
) -> nn.Module:
    """The model that `make` makes, with these tensors; not made before they are known to fit, so that no config asks
    for memory. Raises UserError where they do not, or where it makes none."""
    try:
        with torch.device("meta"), few_modules():
            empty = make()
    except Exception as error:  # of transformers and torch, for sizes that make no model
        raise UserError(
            f"The scorer {scorer} cannot be built in these sizes ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Leave them out for the published ones."
        ) from None
    fill(scorer, empty, tensors, path)
    model = make()
    fill(scorer, model, tensors, path)
    return model


def load_whole(
    scorer: str,
    kind: Any,
    folder: Path,
    dtype: torch.dtype,
    compute: Callable[[Any], Any],
    renamed: Renamed | None = None,
) -> Any:
    """A model of transformers from its folder, in `dtype`, as SDXL's parts are: every tensor of the model from its
    .safetensors files, and none left over, or UserError that says which.

    transformers itself would fill what is missing with random numbers, read the weights of another model that an
    adapter_config.json names, and fetch kernels that config.json names. compute: a call of the model that shows that
    its sizes fit each other. renamed: the names in the model of a tensor that has another one in the files, with its
    parts.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} does not hold {scorer}: config.json is missing. Download it again.")
    try:
        model = build(kind, read_settings(folder / "config.json"), f"{scorer} in {folder}")
        try_out(model, f"{scorer} in {folder}", compute)
        place = _place(set(model.state_dict()), renamed or (lambda key, tensor: [(key, tensor)]))
        return model_weights.fill(model, find_weights(folder, "model", None), dtype, place)
    except UserError as error:
        raise UserError(f"{folder} does not hold the weights of {scorer}: {error}") from None


def _place(names: set[str], renamed: Renamed) -> Place:
    def place(key: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]] | None:
        if key.endswith("position_ids"):  # older files of CLIP hold these numbers 0, 1, 2 ..., which are no weights
            return []
        pairs = [(key, tensor)] if key in names else renamed(key, tensor)
        return pairs if all(name in names for name, _ in pairs) else None

    return place


def identity(*paths: Path) -> list[str]:
    """SHA-256 of each file; of a folder, `name:sha256` of every weight, config and vocabulary in it."""
    kinds = (".safetensors", ".json", ".txt")
    found = []
    for path in paths:
        inside = sorted(file for file in path.iterdir() if file.suffix in kinds) if path.is_dir() else []
        found += [f"{file.name}:{tree_hashes(file)[0]}" for file in inside] or tree_hashes(path)
    return found


def _some(names: list[str]) -> str:
    return sorted(names)[0] + (f" and {len(names) - 1} others" if len(names) > 1 else "")

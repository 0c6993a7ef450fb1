"""A checkpoint of which each rank writes its own part, for FSDP with strategy.options.state_dict_type=sharded.

No rank ever holds all of the model, and all write at once:

    step-00000040/
        shard-00000-of-00002.safetensors     rank 0's rows of every divided tensor, as <path>@<first row>
        training_state.json, .safetensors    the rest, as ever
        manifest.json                        written last, by rank 0, with the hashes that the ranks computed

The parts are put together when they are read, so a run may go on with another number of processes.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.strategies import Strategy
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from mapolab.errors import RunError
from mapolab.files import sha256
from mapolab.models.saved import save_tensors
from mapolab.training.folders import FolderWriter

DIVIDED = "__divided__"


def save_shards(strategy: Strategy, checkpoint: dict[str, Any], path: Path, write_rest: Any) -> None:
    """Write the folder `path`; to be called by all ranks. write_rest(folder, rest, hashes): rank 0 writes what is not
    divided, and the manifest. Raises RunError on all ranks if one of them cannot write."""
    pieces: dict[str, Tensor] = {}
    rest = take_pieces(checkpoint, pieces)
    writer = FolderWriter(path)
    temporary = strategy.broadcast(writer.temporary)
    name = f"shard-{strategy.global_rank:05d}-of-{strategy.world_size:05d}.safetensors"
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        save_tensors(pieces, temporary / name)
        mine = (name, sha256(temporary / name), None)
    except OSError as error:
        mine = (name, "", str(error))
    found: list[Any] = [None] * strategy.world_size
    torch.distributed.all_gather_object(found, mine)
    if failed := [f"{file}: {error}" for file, _, error in found if error]:
        raise RunError(
            f"The checkpoint {path.name} could not be written ({'; '.join(failed)}). The one before is sound."
        )
    if strategy.is_global_zero:
        write_rest(temporary, rest, {file: digest for file, digest, _ in found})
        writer.place(temporary)
    strategy.barrier()


def take_pieces(value: Any, pieces: dict[str, Tensor], path: str = "") -> Any:
    """The value with a note in place of each divided tensor; this rank's rows go to `pieces`."""
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            pieces[f"{path}@{shard.metadata.shard_offsets[0]}"] = shard.tensor
        return {DIVIDED: path}
    if isinstance(value, dict):
        return {key: take_pieces(item, pieces, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(take_pieces(item, pieces, f"{path}/{index}") for index, item in enumerate(value))
    return value


def read_pieces(folder: Path) -> dict[str, dict[int, Tensor]]:
    """path -> first row -> rows, from the files of all ranks; empty for a checkpoint that is not divided."""
    pieces: dict[str, dict[int, Tensor]] = {}
    for file in sorted(folder.glob("shard-*.safetensors")):
        for key, rows in load_file(file).items():
            path, _, first = key.rpartition("@")
            pieces.setdefault(path, {})[int(first)] = rows
    return pieces


def put_together(value: Any, pieces: dict[str, dict[int, Tensor]]) -> Any:
    """What `take_pieces` was given, whole."""
    if isinstance(value, dict):
        if DIVIDED in value:
            rows = pieces[value[DIVIDED]]
            return torch.cat([rows[first] for first in sorted(rows)])
        return {key: put_together(item, pieces) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(put_together(item, pieces) for item in value)
    return value

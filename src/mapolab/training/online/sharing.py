"""A round whose pictures the ranks have drawn, each its share: written, rewarded and known to all."""

from typing import Any

import torch.distributed
from lightning.pytorch import Trainer

from mapolab.errors import RunError
from mapolab.files import sha256, write_json
from mapolab.training.folders import FolderWriter
from mapolab.training.online.advantages import PromptStatistics
from mapolab.training.online.rewards import Rewards
from mapolab.training.online.store import Rollout, RolloutFolder, Share


def share_round(
    trainer: Trainer,
    folder: RolloutFolder,
    number: int,
    share: Share,
    prompts: dict[int, str],
    rewards: Rewards,
    statistics: PromptStatistics,
) -> Rollout:
    """Write this rank's share of round `number`; to be called by all ranks. prompts: of the whole round, by position.

    The advantages are over all ranks' pictures, and each rank's statistics learn of all of them. Raises on all ranks
    what went wrong on any of them.
    """
    writer = FolderWriter(folder.at(number))
    temporary = trainer.strategy.broadcast(writer.temporary)
    name, digest = None, None
    if share.failure is None:
        try:
            name = share.write(temporary, trainer.global_rank)
            digest = sha256(temporary / name)
        except OSError as error:
            share.failure = error
    failure = None if share.failure is None else str(share.failure)
    drawn = dict(zip(share.positions, share.scores, strict=True))
    found = _of_all_ranks(trainer, {"file": name, "digest": digest, "scores": drawn, "failure": failure})
    _raise_failures(share, found)
    scores = {position: row for rank in found for position, row in rank["scores"].items()}
    about = _about(prompts, scores, rewards, statistics)
    if trainer.is_global_zero:
        files = {rank["file"]: rank["digest"] for rank in found}
        write_json(temporary / "manifest.json", {"run": folder.identity, "files": files, **about})
        writer.place(temporary)
    trainer.strategy.barrier()
    return folder.read(number)


def _about(
    prompts: dict[int, str], scores: dict[int, dict[str, float]], rewards: Rewards, statistics: PromptStatistics
) -> dict[str, Any]:
    """What the round's manifest says of its pictures, in the order of their positions."""
    positions = sorted(prompts)
    totals = [rewards.total(scores[position]) for position in positions]
    return {
        "first": positions[0],
        "prompts": [prompts[position] for position in positions],
        "scores": {name: [scores[position][name] for position in positions] for name in rewards.names},
        "rewards": totals,
        "advantages": statistics.advantages([prompts[position] for position in positions], totals),
    }


def _raise_failures(share: Share, found: list[dict[str, Any]]) -> None:
    """A rank's own failure as it was; that of another one as a RunError."""
    if share.failure is not None:
        raise share.failure
    for rank, theirs in enumerate(found):
        if theirs["failure"]:
            raise RunError(f"Process {rank} could not draw its share of a round. {theirs['failure']}")


def _of_all_ranks(trainer: Trainer, mine: dict[str, Any]) -> list[dict[str, Any]]:
    if trainer.world_size == 1:
        return [mine]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered

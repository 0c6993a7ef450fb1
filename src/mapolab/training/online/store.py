"""What a round has drawn, on the disk: each rank writes its pictures' paths, and all ranks read whatever they train on.

    rollouts/round-00000003/
        rank-00000.safetensors   latents (n, S + 1, C, H, W), from noise to picture; log_probs (n, S); positions (n,)
        manifest.json            prompts, scores, rewards and advantages by position, and the SHA-256 of each file

So a run that is killed in the middle of a round goes on with the same pictures, on any number of ranks.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from typing_extensions import TypedDict

from mapolab.errors import RunError
from mapolab.models.saved import save_tensors
from mapolab.reading import read_object
from mapolab.runs import number_of, numbered_folders
from mapolab.training.folders import discard, fault, sweep
from mapolab.training.resume import check_identity

PATIENCE = 60  # seconds; a network file system may show a new folder late on other nodes


@dataclass
class Share:
    """What one rank has drawn of a round. latents, log_probs: (n, S + 1, C, H, W) and (n, S), a group at a time.

    failure: what ended the drawing early; the rank tells the others when they meet.
    """

    positions: list[int] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    failure: Exception | None = None

    def add(self, positions: Iterable[int], latents: Tensor, log_probs: Tensor, scores: list[dict[str, float]]) -> None:
        """A group of pictures."""
        self.positions.extend(positions)
        self.latents.append(latents.cpu())
        self.log_probs.append(log_probs.cpu())
        self.scores.extend(scores)

    def write(self, folder: Path, rank: int) -> str:
        """The rank's file in a folder that may not be there yet; returns its name."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"rank-{rank:05d}.safetensors"
        tensors = {"latents": torch.cat(self.latents), "log_probs": torch.cat(self.log_probs)}
        save_tensors(tensors | {"positions": torch.tensor(self.positions)}, folder / name)
        return name


class RolloutManifest(TypedDict):
    """prompts, rewards, advantages, and scores by scorer, each by position from `first` on. files: SHA-256 by name."""

    first: int
    files: dict[str, str]
    prompts: list[str]
    rewards: list[float]
    advantages: list[float]
    scores: dict[str, list[float]]


class Rollout:
    """A round that is drawn. number: the round's. about: the content of its manifest.

    logs: mean and standard deviation of the rewards, and the mean of each score; scalars, the same all round long.
    """

    def __init__(self, number: int, folder: Path, about: RolloutManifest):
        self.number, self.about = number, about
        self.first = about["first"]
        self.logs = _means(about)
        self.rows: dict[int, tuple[Any, int]] = {}  # position -> its file, opened, and the row in it
        for name in about["files"]:
            opened = safe_open(folder / name, "pt")
            for row, position in enumerate(opened.get_tensor("positions").tolist()):
                self.rows[position] = opened, row

    def prompts(self, positions: Iterable[int]) -> list[str]:
        """Of these pictures."""
        return [self.about["prompts"][position - self.first] for position in positions]

    def advantages(self, positions: Iterable[int]) -> Tensor:
        """(B,) float64."""
        found = [self.about["advantages"][position - self.first] for position in positions]
        return torch.tensor(found, dtype=torch.float64)

    def transitions(self, positions: list[int], steps: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The latents that each step started from and led to, both (B, C, H, W), and its log probability, (B,).

        Nothing else of the files is read.
        """
        pairs, log_probs = [], []
        for position, step in zip(positions, steps, strict=True):
            opened, row = self.rows[position]
            pairs.append(opened.get_slice("latents")[row, step : step + 2])
            log_probs.append(opened.get_slice("log_probs")[row, step])
        latents, following = torch.stack(pairs).unbind(1)
        return latents, following, torch.stack(log_probs)


class RolloutFolder:
    """`<run>/rollouts`, with a folder for each round that a checkpoint may go on with.

    identity: of the run, which its rounds carry; None where it is not known.
    """

    def __init__(self, path: Path, identity: str | None = None):
        self.path, self.identity = path, identity

    def at(self, number: int) -> Path:
        """Where a round lies."""
        return self.path / f"round-{number:08d}"

    def read(self, number: int) -> Rollout:
        """A round that was just written, perhaps on another node."""
        folder = self.at(number)
        deadline = time.monotonic() + PATIENCE
        while not (folder / "manifest.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        fix = "Remove the folder and the checkpoints of its round, and the same command draws it again."
        return Rollout(number, folder, read_object(folder / "manifest.json", RolloutManifest, fix, any_number=True))

    def read_again(self, number: int, step: int) -> Rollout:
        """The round in whose middle a checkpoint stands. Raises RunError where it is not as it was written, and
        UserError for one of another run."""
        folder = self.at(number)
        check_identity(folder, self.identity)
        if wrong := fault(folder):
            raise RunError(
                f"The run stands after step {step}, in the middle of round {number}, but of what that round drew "
                f"({folder}) {wrong}. Restore the folder, or remove the checkpoints of this round "
                f"({self.path.parent / 'checkpoints'}); the same command then continues from an earlier one."
            )
        return self.read(number)

    def forget(self, number: int) -> None:
        """Remove a round that is about to be drawn again."""
        if self.at(number).exists():
            discard(self.at(number))

    def keep(self, numbers: set[int]) -> None:
        """Remove all other rounds, and what a killed process left."""
        sweep(self.path)
        for folder in numbered_folders(self.path, "round"):
            if number_of(folder) not in numbers:
                discard(folder)


def _means(about: dict[str, Any]) -> dict[str, Tensor]:
    rewards = torch.tensor(about["rewards"], dtype=torch.float64)
    scores = {f"reward/{name}": torch.tensor(values).double().mean() for name, values in about["scores"].items()}
    return {"reward": rewards.mean(), "reward_std": rewards.std(correction=0), **scores}

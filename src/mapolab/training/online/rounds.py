"""Which pictures and which of their denoising steps an optimizer step trains: all of it a function of its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapolab.streams import Stream, generator


@dataclass(frozen=True)
class Rounds:
    """samples: pictures a round. per_step: pictures an optimizer step. steps: denoising steps a picture; trained: how
    many of them each pass takes."""

    seed: int
    samples: int
    per_step: int
    inner_epochs: int
    steps: int
    trained: int

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps from one round's drawing to the next."""
        return self.inner_epochs * self.samples // self.per_step

    def round_of(self, step: int) -> int:
        """The round whose pictures optimizer step `step` trains on."""
        return step // self.steps_per_round

    def begins(self, step: int) -> bool:
        """Whether this optimizer step is its round's first."""
        return step % self.steps_per_round == 0

    def positions(self, number: int) -> range:
        """The positions of a round's pictures, in all that the run draws."""
        return range(number * self.samples, (number + 1) * self.samples)

    def transitions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (per_step,) and denoising steps (per_step, trained) that an optimizer step trains.

        Each pass goes through the round's pictures in an order of its own, and through each picture's steps too.
        """
        pass_number, index = divmod(step, self.samples // self.per_step)
        order = generator(self.seed, Stream.ROLLOUT_ORDER, pass_number).permutation(self.samples)
        offsets = order[index * self.per_step : (index + 1) * self.per_step]
        first = self.positions(self.round_of(step)).start
        denoising = [
            generator(self.seed, Stream.ROLLOUT_TIMESTEPS, pass_number << 32 | int(offset)).permutation(self.steps)
            for offset in offsets
        ]
        return first + offsets, np.stack(denoising)[:, : self.trained]


@dataclass(frozen=True)
class MicroSteps:
    """The forward passes of a rank from optimizer step `done` on: one denoising step of `batch_size` pictures each.

    A pass takes the steps of its pictures one after the other, then the next pictures. The length is that of the whole
    run, as of `data.order.MicroSteps`.
    """

    rounds: Rounds
    batch_size: int
    done: int
    total: int
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches: round, and for each picture its position and the denoising step; nothing that was drawn."""
        for step in range(self.done, self.total):
            positions, denoising = self.rounds.transitions(step)
            stride = self.batch_size * self.world_size
            for first in range(self.rank * self.batch_size, self.rounds.per_step, stride):
                mine = slice(first, first + self.batch_size)
                for index in range(self.rounds.trained):
                    yield {
                        "round": self.rounds.round_of(step),
                        "positions": positions[mine].tolist(),
                        "steps": denoising[mine, index].tolist(),
                        "replaced": [],  # there is no row to be broken
                    }

    def __len__(self) -> int:
        return self.total * self.rounds.per_step // (self.batch_size * self.world_size) * self.rounds.trained

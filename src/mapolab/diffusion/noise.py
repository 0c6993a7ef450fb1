"""Noise and timesteps as functions of (seed, position): both images of a pair share them, and so do all objectives."""

import numpy as np
import torch
from torch import Tensor

from mapolab.streams import Stream, generator


def draw_noise(seed: int, positions: list[int], shape: tuple[int, ...], stream: Stream = Stream.NOISE) -> Tensor:
    """Standard normal noise, (B, *shape) float32 on the CPU, one independent draw for each position.

    Drawn on the CPU on purpose: the same numbers for every accelerator and world size.
    """
    noise = np.empty((len(positions), *shape), dtype=np.float32)
    for row, position in zip(noise, positions, strict=True):
        generator(seed, stream, position).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(noise)


def draw_timesteps(seed: int, positions: list[int], first: int, last: int) -> Tensor:
    """Timesteps, (B,) int64, uniform over first .. last, both included."""
    draws = [first + generator(seed, Stream.TIMESTEP, position).integers(last - first + 1) for position in positions]
    return torch.tensor(draws, dtype=torch.int64)

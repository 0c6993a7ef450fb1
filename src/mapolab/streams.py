"""Random numbers as a function of (seed, stream, position): there is no generator whose state could be lost.

Philox is a counter-based generator: the key names the seed and what the numbers are for, and the top word of the
256-bit counter is the position. Different positions and streams never overlap, and any of them can be drawn at any
time, by any process, in any order. That is what makes a resumed run equal to an undisturbed one.
"""

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for. The values are part of every run's meaning: append, never renumber."""

    ORDER = 0
    NOISE = 1
    TIMESTEP = 2
    FLIP = 3
    LABEL_FLIP = 4
    POSTERIOR_CHOSEN = 5
    POSTERIOR_REJECTED = 6
    GENERATION = 7
    WINDOW = 8
    BUCKET = 9
    BUCKET_STEP = 10
    LABEL_NOISE = 11
    PROMPT_DROPOUT = 12
    LORA = 13
    LORA_DROPOUT = 14
    ROUNDING = 15
    INVERSION = 16
    ROLLOUT_PROMPT = 17
    ROLLOUT_NOISE = 18
    ROLLOUT_ORDER = 19
    ROLLOUT_TIMESTEPS = 20


def generator(seed: int, stream: Stream, position: int) -> np.random.Generator:
    """The generator of one position of one stream. seed, position: 0 or more, below 2^64."""
    # A plain list of a large and a small number would become floats, which tell few of the large ones apart.
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, position]))


@contextlib.contextmanager
def torch_seed(seed: int, stream: Stream, position: int) -> Iterator[None]:
    """Within the block torch's own generators, on the CPU and on GPUs, start from (seed, stream, position).

    For libraries that draw from them: initialisation, dropout, stochastic rounding.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(int(generator(seed, stream, position).integers(1 << 62)))
        yield

import itertools

import pytest
import torch

from mapolab.diffusion.noise import draw_noise, draw_timesteps
from mapolab.streams import Stream


def test_noise_belongs_to_the_position_and_not_to_the_batch():
    together = draw_noise(3, [10, 11, 12], (4, 8, 8))
    assert torch.equal(together[1:2], draw_noise(3, [11], (4, 8, 8)))
    assert torch.equal(draw_timesteps(3, [12, 11], 0, 999), draw_timesteps(3, [11, 12], 0, 999).flip(0))


def test_seeds_streams_and_positions_are_independent():
    keys = itertools.product((0, 1), (0, 1), (Stream.NOISE, Stream.POSTERIOR_CHOSEN))
    draws = [draw_noise(seed, [position], (4, 8, 8), stream) for seed, position, stream in keys]
    correlations = torch.corrcoef(torch.stack(draws).flatten(1)) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.25  # 256 numbers each: four standard deviations


def test_the_distributions_are_right():
    noise = draw_noise(0, list(range(256)), (4, 16, 16))
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01
    timesteps = draw_timesteps(0, list(range(20000)), 0, 10 - 1)
    assert torch.bincount(timesteps).tolist() == pytest.approx([2000] * 10, rel=0.1)


def test_the_numbers_are_pinned():
    # As for the order of samples: a change would silently make old runs impossible to continue.
    torch.testing.assert_close(draw_noise(0, [5], (3,))[0], torch.tensor(PINNED_NOISE), rtol=0, atol=1e-6)
    assert draw_timesteps(0, [0, 1, 2, 3], 0, 999).tolist() == PINNED_TIMESTEPS


PINNED_NOISE = [-0.0910842, 0.9823093, 0.8934900]
PINNED_TIMESTEPS = [624, 484, 191, 538]

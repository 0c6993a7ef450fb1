"""DDIM's steps as diffusers takes them, and their probabilities as torch's own Gaussian has them."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.distributions import Normal, kl_divergence

from mapolab.diffusion.policy import DDIMPolicy, guided, log_prob, policy_noise, step_kl
from mapolab.errors import UserError

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
KINDS = {
    "noise": {"prediction_type": "epsilon"},
    "velocity": {"prediction_type": "v_prediction"},
    "zero terminal SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


def both(kind: str, steps: int, eta: float) -> tuple[DDIMPolicy, DDIMScheduler]:
    """Our policy, and diffusers' scheduler set to the same conventions."""
    spacing = {"timestep_spacing": "trailing"} if kind == "zero terminal SNR" else {"steps_offset": 1}
    theirs = DDIMScheduler(**SDXL, **KINDS[kind], **spacing, set_alpha_to_one=False, clip_sample=False)
    theirs.set_timesteps(steps)
    return DDIMPolicy.of(DDPMScheduler(**SDXL, **KINDS[kind]), steps, eta), theirs


@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_that_of_diffusers(kind, steps, eta):
    policy, theirs = both(kind, steps, eta)
    assert policy.timesteps.tolist() == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    latents, prediction, noise = (torch.randn(steps, 4, 8, 8, generator=generator) for _ in range(3))
    mean, std = policy.gaussian(torch.arange(steps), latents, prediction)  # each sample at a step of its own
    assert (std > 0).all()
    for step, timestep in enumerate(theirs.timesteps):
        one = slice(step, step + 1)
        if kind == "zero terminal SNR" and eta == 1 and step == 0:
            assert mean.isfinite().all()  # diffusers loses its digits, or all, in the root of nearly 0
            continue
        expected = theirs.step(prediction[one], timestep, latents[one], eta=eta, variance_noise=noise[one]).prev_sample
        torch.testing.assert_close((mean + std * noise)[one], expected, rtol=1e-5, atol=1e-5)


def test_the_last_step_has_a_density():
    """It ends at the noise level of timestep 0; onto the picture itself its standard deviation would be 0."""
    policy, theirs = both("noise", 20, 1.0)
    assert policy.timesteps[-1] == 1 and policy.next_signal[-1] == theirs.alphas_cumprod[0].double() < 1
    _, std = policy.gaussian(torch.tensor([19]), torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    assert 0.01 < std.item() < 0.03


def test_log_probabilities_and_divergences_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, other, latents = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    std = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    expected = Normal(mean, std).log_prob(latents).mean(dim=(1, 2, 3))
    torch.testing.assert_close(log_prob(latents, mean, std), expected)
    divergence = kl_divergence(Normal(mean, std), Normal(other, std)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(step_kl(mean, other, std), divergence)


def test_noise_is_a_function_of_sample_and_step():
    draws = [policy_noise(0, [sample], step, (4,)) for sample in (0, 1) for step in (None, 0, 1)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 6
    together = policy_noise(0, [5, 9], 3, (2, 2))
    assert torch.equal(together[1:], policy_noise(0, [9], 3, (2, 2)))
    assert not torch.equal(together, policy_noise(1, [5, 9], 3, (2, 2)))


def test_guidance_goes_from_the_unconditional_prediction_through_the_other():
    predictions = torch.cat([torch.full((2, 1, 1, 1), 1.0), torch.full((2, 1, 1, 1), 3.0)])
    assert guided(predictions, 0).flatten().tolist() == [1, 1]
    assert guided(predictions, 1).flatten().tolist() == [3, 3]
    assert guided(predictions.bfloat16(), 5.0).flatten().tolist() == [11, 11]


def test_a_step_from_where_there_is_no_noise_is_refused():
    """The only one of `leading` begins at timestep 1."""
    with pytest.raises(UserError, match=r"rollout.steps=1 .*would begin at timestep 1 of 1000"):
        DDIMPolicy.of(DDPMScheduler(**SDXL), 1, 1.0)
    assert DDIMPolicy.of(DDPMScheduler(**SDXL, **KINDS["zero terminal SNR"]), 1, 1.0).timesteps.tolist() == [999]


@pytest.mark.parametrize("steps", [501, 1000])
def test_more_steps_than_the_model_has_are_refused(steps):
    with pytest.raises(UserError, match="1 to 500 steps"):
        DDIMPolicy.of(DDPMScheduler(**SDXL), steps, 1.0)

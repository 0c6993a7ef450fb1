"""Inverted noise: exact where the model is, diffusers' scheduler on its grid, and a way back to the image."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDPMScheduler

from mapolab.diffusion.errors import DenoisingTask, predict
from mapolab.diffusion.inversion import SLOTS, Inversion
from mapolab.diffusion.noise import draw_noise
from mapolab.streams import Stream

NOISING = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (4, 8, 8)


def task_of(timesteps, latents=None, conditions=8):
    make = torch.Generator().manual_seed(0)
    count = len(timesteps)
    latents = torch.randn(count, *SHAPE, generator=make) if latents is None else latents
    return DenoisingTask(
        latents=latents,
        noisy_latents=torch.zeros_like(latents),
        timesteps=torch.tensor(timesteps),
        prompt_embeds=torch.randn(count, conditions, 24, generator=make),
        pooled_prompt_embeds=torch.randn(count, 16, generator=make),
        add_time_ids=torch.full((count, 6), 64.0),
        target=torch.zeros_like(latents),
    )


def smooth(x, t, **_):
    """A stand-in for a UNet that depends on where it stands, and little enough for inversion to be nearly exact."""
    return SimpleNamespace(sample=0.3 * torch.tanh(x) + t.view(-1, 1, 1, 1) / 5000)


def sampled(task, unet, steps):
    """Back from x_t along DDIM's path, in equal steps of time."""
    signal, x, t = DDPMScheduler(**NOISING).alphas_cumprod, task.noisy_latents, int(task.timesteps[0])
    times = [*range(t, -1, -steps), -1] if t % steps == 0 else [t, *range(t - t % steps, -1, -steps), -1]
    for before, after in pairwise(times):
        noise = unet(x, torch.full((len(x),), before)).sample
        image = (x - (1 - signal[before]).sqrt() * noise) / signal[before].sqrt()
        target = torch.tensor(1.0) if after < 0 else signal[after]
        x = target.sqrt() * image + (1 - target).sqrt() * noise
    return x


@pytest.mark.parametrize("prediction_type", ("epsilon", "v_prediction"))
@pytest.mark.parametrize(("refined", "steps"), ((False, 10), (True, 10), (False, 7), (False, 60)))
def test_a_model_that_knows_the_noise_gets_it_back(refined, steps, prediction_type):
    known = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    scheduler = DDPMScheduler(**NOISING, prediction_type=prediction_type)
    task = task_of([0, 340, 999])

    def unet(x, t, **_):
        of = known[-len(x) :]  # images that have arrived, the first ones, are left out
        if prediction_type == "epsilon":
            return SimpleNamespace(sample=of)
        signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(of - (1 - signal).sqrt() * x) / signal.sqrt())

    found = Inversion(refined, steps, 0.0)(task, unet, scheduler, 0, [0, 1, 2])
    expected = scheduler.add_noise(task.latents, known, task.timesteps)
    torch.testing.assert_close(found.noisy_latents, expected, rtol=1e-4, atol=1e-4)
    if prediction_type == "epsilon":
        torch.testing.assert_close(found.target[1:], known[1:], rtol=1e-3, atol=1e-3)


def test_on_its_grid_it_is_diffusers_inverse_scheduler():
    inverse = DDIMInverseScheduler(**NOISING, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    inverse.set_timesteps(10)
    assert inverse.timesteps.tolist() == list(range(0, 1000, 100))
    task = task_of([500, 500])
    x = task.latents
    for t in inverse.timesteps[:6]:
        x = inverse.step(smooth(x, t.repeat(2)).sample, t, x).prev_sample
    found = Inversion(False, 10, 0.0)(task, smooth, DDPMScheduler(**NOISING), 0, [0, 1])
    torch.testing.assert_close(found.noisy_latents, x, rtol=1e-5, atol=1e-5)


def test_renoise_leads_back_to_the_image_better():
    scheduler, task = DDPMScheduler(**NOISING), task_of([900, 900])
    lost = {}
    for refined in (False, True):
        inverted = Inversion(refined, 10, 0.0)(task, smooth, scheduler, 0, [0, 1])
        lost[refined] = (sampled(inverted, smooth, 100) - task.latents).square().mean().item()
    assert lost[True] < 0.3 * lost[False]


def test_one_step_is_its_formula_with_and_without_the_average():
    """From x_0 to timestep 0: the noise where it stands; with ReNoise its mean with the noise where that leads."""
    scheduler, task = DDPMScheduler(**NOISING), task_of([0])
    signal = scheduler.alphas_cumprod[0].double()
    x = task.latents.double()

    def moved(noise):
        return signal.sqrt() * x + (1 - signal).sqrt() * noise

    def noise(x):
        return 5 * torch.tanh(40 * x)

    def steep(x, t, **_):
        return SimpleNamespace(sample=noise(x))

    for refined, used in ((False, noise(x)), (True, (noise(x) + noise(moved(noise(x)))) / 2)):
        found = Inversion(refined, 10, 0.0)(task, steep, scheduler, 0, [0])
        torch.testing.assert_close(found.noisy_latents.double(), moved(used), rtol=1e-4, atol=1e-4)
    assert (noise(x) - noise(moved(noise(x)))).abs().max() > 1


def test_fresh_noise_is_that_of_each_image_at_each_step():
    """A model that predicts nothing only scales x_0; what else is there is the fresh noise, scaled likewise."""
    scheduler, task = DDPMScheduler(**NOISING), task_of([340, 999])  # a pair: chosen and rejected

    def nothing(x, t, **_):
        return SimpleNamespace(sample=torch.zeros_like(x))

    plain, fresh = (Inversion(False, 3, part)(task, nothing, scheduler, 5, [11]).noisy_latents for part in (0.0, 0.7))
    signal = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1, dtype=torch.float64)])  # [-1]: x_0
    for side, times in enumerate(([-1, 0, 334, 340], [-1, 0, 334, 668, 999])):
        x, expected = task.latents[side].double(), torch.zeros(SHAPE, dtype=torch.float64)
        for number, (before, after) in enumerate(pairwise(times)):
            scale = (signal[after] / signal[before]).sqrt()
            deviation = ((1 - signal[before]) / (1 - signal[after]) * (1 - signal[after] / signal[before])).sqrt()
            drawn = draw_noise(5, [11 * SLOTS + side + 2 * number], SHAPE, Stream.INVERSION)[0]
            x, expected = scale * x, scale * expected + 0.7 * deviation * drawn
        torch.testing.assert_close(plain[side].double(), x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fresh[side].double(), x + expected, rtol=1e-4, atol=1e-4)


def test_it_depends_on_seed_and_position_alone(tiny_pipeline_folder):
    """Fresh noise included: an image's noise is the same whatever stands beside it."""
    from mapolab.models.sdxl import SDXL

    sdxl = SDXL(str(tiny_pipeline_folder))
    unet, scheduler = sdxl.load_unet(), sdxl.load_scheduler()
    inversion, task = Inversion(True, 5, 0.5), task_of([70, 650, 300, 999])  # two pairs: chosen, chosen, rejected, ...
    together = inversion(task, unet, scheduler, 3, [10, 11])
    alone = inversion(task.at(torch.tensor([1, 3])), unet, scheduler, 3, [11])
    torch.testing.assert_close(alone.noisy_latents, together.noisy_latents[[1, 3]], rtol=1e-4, atol=1e-4)
    other = inversion(task, unet, scheduler, 4, [10, 11])
    assert not torch.allclose(other.noisy_latents, together.noisy_latents, atol=1e-3)
    prediction = predict(unet, together)
    assert prediction.requires_grad and not together.noisy_latents.requires_grad

import pytest
import torch
from diffusers import DDPMScheduler

from mapolab.diffusion.errors import denoising_task, pair_errors, predict, prediction_target
from mapolab.diffusion.noise import draw_noise, draw_timesteps
from mapolab.errors import UserError
from mapolab.models.sdxl import SDXL

POSITIONS = [6, 2]
SHAPE = (4, 8, 8)


@pytest.fixture
def batch():
    make = torch.Generator().manual_seed(0)
    return {
        "positions": POSITIONS,
        "chosen_latents": torch.randn(2, *SHAPE, generator=make),
        "rejected_latents": torch.randn(2, *SHAPE, generator=make),
        "chosen_time_ids": torch.tensor([[16, 20, 0, 2, 16, 16]] * 2).float(),
        "rejected_time_ids": torch.tensor([[24, 16, 4, 0, 16, 16]] * 2).float(),
        "prompt_embeds": torch.randn(2, 8, 24, generator=make),
        "pooled_prompt_embeds": torch.randn(2, 16, generator=make),
    }


def scheduler(**settings):
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **settings)


def test_errors_of_a_pair_equal_those_of_each_image_alone(batch, tiny_pipeline_folder):
    """One forward pass over both images against the formula, written out for one image at a time."""
    unet, noising = SDXL(str(tiny_pipeline_folder)).load_unet(), scheduler()
    task = denoising_task(batch, noising, seed=1, with_rejected=True)
    found = pair_errors(predict(unet, task), task.target, None, with_rejected=True)
    errors = torch.cat([found.chosen, found.rejected])
    noise, timesteps = draw_noise(1, POSITIONS, SHAPE), draw_timesteps(1, POSITIONS, 0, 999)
    for row, (side, pair) in enumerate([("chosen", 0), ("chosen", 1), ("rejected", 0), ("rejected", 1)]):
        signal = noising.alphas_cumprod[timesteps[pair]]
        noisy = signal.sqrt() * batch[f"{side}_latents"][pair] + (1 - signal).sqrt() * noise[pair]
        conditions = {"text_embeds": batch["pooled_prompt_embeds"][pair : pair + 1]}
        conditions["time_ids"] = batch[f"{side}_time_ids"][pair : pair + 1]
        prediction = unet(
            noisy[None], timesteps[pair], batch["prompt_embeds"][pair : pair + 1], added_cond_kwargs=conditions
        ).sample
        torch.testing.assert_close(errors[row], (prediction - noise[pair]).square().mean(), rtol=1e-4, atol=0)


def test_products_are_those_of_the_residuals():
    """Of the chosen image's residuals under model and reference, and of the model's on both images; by hand."""
    prediction = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(2, 1, 1, 2)  # chosen, then rejected
    target = torch.tensor([0.0, 1.0, 1.0, 1.0]).view(2, 1, 1, 2)
    reference = torch.tensor([3.0, -1.0, 6.0, 7.0]).view(2, 1, 1, 2)
    labels, weights = torch.tensor([0.5]), torch.tensor([2.0])
    found = pair_errors(prediction, target, reference, True, True, labels, weights)
    # Residuals: chosen (1, 1), rejected (2, 3), the reference's (3, -2) and (5, 6).
    expected = {"chosen": 1.0, "rejected": 6.5, "reference_chosen": 6.5, "reference_rejected": 30.5}
    expected |= {"labels": 0.5, "weights": 2.0, "chosen_reference_product": 0.5, "chosen_rejected_product": 2.5}
    assert {name: value.item() for name, value in vars(found).items()} == expected


def test_without_rejected_images_nothing_of_them_is_read(batch):
    whole = denoising_task(batch, scheduler(), seed=1, with_rejected=True)
    del batch["rejected_latents"], batch["rejected_time_ids"]
    alone = denoising_task(batch, scheduler(), seed=1, with_rejected=False)
    for name, tensor in vars(alone).items():
        assert torch.equal(tensor, getattr(whole, name)[:2]), name


def test_velocity_targets(batch):
    noising = scheduler(prediction_type="v_prediction")
    noise, timesteps = draw_noise(1, POSITIONS, SHAPE), draw_timesteps(1, POSITIONS, 0, 999)
    signal = noising.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * batch["chosen_latents"]
    torch.testing.assert_close(prediction_target(noising, batch["chosen_latents"], noise, timesteps), velocity)


def test_other_targets_are_refused(batch):
    with pytest.raises(UserError, match="prediction_type='sample'"):
        denoising_task(batch, scheduler(prediction_type="sample"), seed=1, with_rejected=True)


def test_errors_are_summed_in_float32():
    prediction = torch.full((1, 4, 64, 64), 0.1, dtype=torch.bfloat16)
    target = torch.zeros(1, 4, 64, 64, dtype=torch.bfloat16)
    error = pair_errors(prediction, target, None, with_rejected=False).chosen
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, prediction[0, 0, 0, :1].float() ** 2, rtol=1e-6, atol=0)

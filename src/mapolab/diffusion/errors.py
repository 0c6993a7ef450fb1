"""From a batch of pairs to the per-sample errors that an objective is a function of.

Shapes. B: pairs. N: images in one forward pass, B when only the chosen ones are needed, else 2B with the chosen first.
C, H, W: channels, height and width of the latents. L: tokens. D: width of the prompt embeddings. P: of the pooled ones.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from mapolab.diffusion.noise import draw_noise, draw_timesteps
from mapolab.errors import UserError


@dataclass(frozen=True)
class DenoisingTask:
    """The input of one UNet forward pass and what it should predict."""

    noisy_latents: Tensor  # (N, C, H, W)
    timesteps: Tensor  # (N,)
    prompt_embeds: Tensor  # (N, L, D)
    pooled_prompt_embeds: Tensor  # (N, P)
    add_time_ids: Tensor  # (N, 6)
    target: Tensor | None = None  # (N, C, H, W); None where there is nothing to compare with


def denoising_task(
    batch: dict[str, Any],
    scheduler: DDPMScheduler,
    seed: int,
    with_rejected: bool,
    timesteps_from: tuple[int, int] | None = None,
) -> DenoisingTask:
    """Noise the images of a batch.

    batch: `positions` (B ints), `chosen_latents` (B, C, H, W), `chosen_time_ids` (B, 6), `prompt_embeds` (B, L, D),
    `pooled_prompt_embeds` (B, P) and, when `with_rejected`, `rejected_latents` and `rejected_time_ids`.
    timesteps_from: the first and the last timestep to draw from; None: all.
    Both images of a pair get the same noise and the same timestep, so that the difference of their errors is due to the
    images. Raises UserError for a model that predicts neither noise nor velocity.
    """
    sides = ("chosen", "rejected") if with_rejected else ("chosen",)
    latents = torch.cat([batch[f"{side}_latents"] for side in sides])
    device, positions = latents.device, batch["positions"]
    first, last = timesteps_from or (0, scheduler.config.num_train_timesteps - 1)
    noise = draw_noise(seed, positions, tuple(latents.shape[1:])).to(device, latents.dtype)
    timesteps = draw_timesteps(seed, positions, first, last).to(device)
    noise, timesteps, prompt_embeds, pooled_prompt_embeds = (
        torch.cat([tensor] * len(sides))
        for tensor in (noise, timesteps, batch["prompt_embeds"], batch["pooled_prompt_embeds"])
    )
    return DenoisingTask(
        noisy_latents=scheduler.add_noise(latents, noise, timesteps),
        timesteps=timesteps,
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled_prompt_embeds,
        add_time_ids=torch.cat([batch[f"{side}_time_ids"] for side in sides]),
        target=prediction_target(scheduler, latents, noise, timesteps),
    )


def prediction_target(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet should predict, (N, C, H, W): the noise, or the velocity of Salimans and Ho (2202.00512)."""
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise UserError(
        f"The model's scheduler says prediction_type={prediction_type!r}; mapolab trains models that predict the noise "
        "(epsilon) or the velocity (v_prediction). Choose another model, or correct scheduler/scheduler_config.json."
    )


def predict(unet: nn.Module, task: DenoisingTask, dtype: torch.dtype | None = None) -> Tensor:
    """The UNet's prediction, (N, C, H, W). `dtype`: that of its weights, when the inputs must be brought to it."""
    floats = [task.noisy_latents, task.prompt_embeds, task.pooled_prompt_embeds]
    noisy_latents, prompt_embeds, pooled = (tensor.to(dtype) if dtype else tensor for tensor in floats)
    conditions = {"text_embeds": pooled, "time_ids": task.add_time_ids}
    return unet(noisy_latents, task.timesteps, encoder_hidden_states=prompt_embeds, added_cond_kwargs=conditions).sample


def per_sample_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over C, H, W for each sample: (N,), in float32 whatever the precision of the forward pass.

    In float64 where the target is.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().mean(dim=(1, 2, 3))

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
from mapolab.objectives import PairErrors


@dataclass(frozen=True)
class DenoisingTask:
    """The input of one UNet forward pass and what it should predict."""

    noisy_latents: Tensor  # (N, C, H, W)
    timesteps: Tensor  # (N,)
    prompt_embeds: Tensor  # (N, L, D)
    pooled_prompt_embeds: Tensor  # (N, P)
    add_time_ids: Tensor  # (N, 6)
    target: Tensor | None = None  # (N, C, H, W); None where there is nothing to compare with
    latents: Tensor | None = None  # (N, C, H, W), the images without noise, where they are known

    def at(self, rows: Tensor) -> "DenoisingTask":
        """The part of these images."""
        return DenoisingTask(**{name: None if item is None else item[rows] for name, item in vars(self).items()})


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
        latents=latents,
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


def pair_errors(
    prediction: Tensor,
    target: Tensor,
    reference_prediction: Tensor | None,
    with_rejected: bool,
    with_products: bool = False,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> PairErrors:
    """What an objective is a function of: (B,) each, of (N, C, H, W) predictions of which the first B are the chosen.

    Means over C, H, W in float32 whatever the precision of the forward pass; in float64 where the target is.
    labels, weights: (B,), passed on. with_products: also the products of `PairErrors`.
    """
    residual = _residual(prediction, target)
    reference = None if reference_prediction is None else _residual(reference_prediction, target)
    chosen, rejected = _sides(residual, with_rejected)
    reference_chosen, reference_rejected = (None, None) if reference is None else _sides(reference, with_rejected)
    return PairErrors(
        _mean_product(chosen, chosen),
        _mean_product(rejected, rejected),
        _mean_product(reference_chosen, reference_chosen),
        _mean_product(reference_rejected, reference_rejected),
        labels,
        weights,
        _mean_product(chosen, reference_chosen) if with_products else None,
        _mean_product(chosen, rejected) if with_products else None,
    )


def _residual(prediction: Tensor, target: Tensor) -> Tensor:
    """What is wrong in a prediction, (N, C, H, W)."""
    dtype = torch.promote_types(target.dtype, torch.float32)
    return prediction.to(dtype) - target.to(dtype)


def _sides(values: Tensor, with_rejected: bool) -> tuple[Tensor, Tensor | None]:
    return values.chunk(2) if with_rejected else (values, None)


def _mean_product(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The mean over C, H, W for each sample, (B,); None where one of the two is not there."""
    if one is None or other is None:
        return None
    return (one.square() if one is other else one * other).mean(dim=(1, 2, 3))

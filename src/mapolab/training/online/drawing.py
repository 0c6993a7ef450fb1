"""Drawing pictures step by step, with each step's probability; the update asks the same questions again.

Shapes. B: pictures. S: denoising steps. C, H, W: of the latents. L: tokens. D: width of the prompt embeddings. P: of
the pooled ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mapolab.diffusion.errors import DenoisingTask
from mapolab.diffusion.policy import DDIMPolicy, guided, log_prob, policy_noise
from mapolab.models.encoder import Encoder

AT_ONCE = 32  # prompts encoded together
Predict = Callable[[DenoisingTask], Tensor]


@dataclass(frozen=True)
class Conditions:
    """What the UNet is told beside latents and timestep, for each prompt of a round.

    rows: prompt -> its row. embeds (prompts, L, D), pooled (prompts, P). empty: those of no prompt, (1, L, D) and
    (1, P). time_ids: (6,), of a square picture that is neither resized nor cropped, as the pipeline gives them.
    """

    rows: dict[str, int]
    embeds: Tensor
    pooled: Tensor
    empty: tuple[Tensor, Tensor]
    time_ids: Tensor
    guidance_scale: float

    @classmethod
    def of(
        cls,
        prompts: list[str],
        encoder: Encoder,
        empty: tuple[Tensor, Tensor] | None,
        resolution: int,
        guidance_scale: float,
        dtype: torch.dtype,
    ) -> "Conditions":
        """Encode the different ones among `prompts`. empty: None: zeros, as SDXL base has them."""
        different = list(dict.fromkeys(prompts))
        groups = [different[start : start + AT_ONCE] for start in range(0, len(different), AT_ONCE)]
        encoded = [encoder.encode_prompts(group) for group in groups]
        embeds, pooled = (torch.cat(parts).to(dtype) for parts in zip(*encoded, strict=True))
        none = empty or (torch.zeros_like(embeds[:1]), torch.zeros_like(pooled[:1]))
        time_ids = torch.tensor([resolution, resolution, 0, 0, resolution, resolution])
        return cls(
            rows={prompt: row for row, prompt in enumerate(different)},
            embeds=embeds,
            pooled=pooled,
            empty=(none[0].to(embeds), none[1].to(pooled)),
            time_ids=time_ids.to(embeds.device, dtype),
            guidance_scale=guidance_scale,
        )

    def predict(self, predict: Predict, prompts: list[str], latents: Tensor, timesteps: Tensor) -> Tensor:
        """The guided prediction, (B, C, H, W); with guidance one forward pass of 2B. timesteps: (B,)."""
        rows = [self.rows[prompt] for prompt in prompts]
        embeds, pooled = self.embeds[rows], self.pooled[rows]
        timesteps = timesteps.to(latents.device)
        if self.guidance_scale != 1:
            count = len(rows)
            embeds = torch.cat([self.empty[0].expand(count, -1, -1), embeds])
            pooled = torch.cat([self.empty[1].expand(count, -1), pooled])
            latents, timesteps = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
        time_ids = self.time_ids.expand(len(latents), -1)
        prediction = predict(DenoisingTask(latents, timesteps, embeds, pooled, time_ids))
        return prediction if self.guidance_scale == 1 else guided(prediction, self.guidance_scale)


@torch.no_grad()
def draw(
    predict: Predict,
    policy: DDIMPolicy,
    conditions: Conditions,
    seed: int,
    positions: list[int],
    prompts: list[str],
    shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """The paths of B pictures from noise, (B, S + 1, C, H, W), and each step's log probability, (B, S).

    shape: (C, H, W). All noise is a function of (seed, position, step). Of a step's probability counts what the latents
    are after rounding, as the update will see them.
    """
    device, dtype = conditions.embeds.device, conditions.embeds.dtype
    path = [policy_noise(seed, positions, None, shape).to(device, dtype)]
    log_probs = []
    for step in range(len(policy.timesteps)):
        steps = torch.full((len(positions),), step)
        prediction = conditions.predict(predict, prompts, path[-1], policy.timesteps[steps])
        mean, std = policy.gaussian(steps, path[-1], prediction)
        path.append(mean + std * policy_noise(seed, positions, step, shape).to(device, dtype))
        log_probs.append(log_prob(path[-1], mean, std))
    return torch.stack(path, dim=1), torch.stack(log_probs, dim=1)

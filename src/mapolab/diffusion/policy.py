"""Denoising as a policy: each DDIM step is a draw from a Gaussian whose density is known.

Shapes. B: samples, each at a step of its own. S: denoising steps of a picture. C, H, W: of the latents. Steps are
counted from 0, the noisiest, to S - 1, after which the latents are the picture.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mapolab.diffusion.noise import draw_noise
from mapolab.diffusion.samplers import check_beginning
from mapolab.errors import UserError
from mapolab.streams import Stream

LARGEST_STEP = 1 << 16  # of one sample's noise; the rest of a position's bits is the sample


@dataclass(frozen=True)
class DDIMPolicy:
    """The steps of Song et al. (2010.02502), equations 12 and 16, from the noisiest timestep to 0.

    timesteps: (S,) int64, descending. signal, next_signal: (S,) float64, alpha-bar (the share of the picture in the
    variance) at each step's timestep and at the one it leads to. velocity: the UNet predicts velocity, not noise.
    eta: the share of DDPM's noise that each step adds.
    """

    timesteps: Tensor
    signal: Tensor
    next_signal: Tensor
    velocity: bool
    eta: float

    @classmethod
    def of(cls, scheduler: DDPMScheduler, steps: int, eta: float) -> "DDIMPolicy":
        """The policy of a model whose forward process is `scheduler`, in so many steps.

        The last step ends at the noise level of timestep 0 and not at none (diffusers: set_alpha_to_one=False), as in
        the published program: a step onto the picture itself would have a standard deviation of 0, hence no density.
        Raises UserError for more steps than every second timestep, and for one that would begin at the last noise.
        """
        trained = scheduler.config.num_train_timesteps
        if not 1 <= steps <= trained // 2:
            raise UserError(f"rollout.steps is {steps}; this model can be sampled in 1 to {trained // 2} steps.")
        timesteps = _timesteps(trained, steps, bool(scheduler.config.get("rescale_betas_zero_snr")))
        signal = scheduler.alphas_cumprod.double().cpu()
        check_beginning("rollout.steps", steps, int(timesteps[0]), signal)
        following = torch.cat([timesteps[1:], torch.zeros(1, dtype=torch.int64)])
        velocity = scheduler.config.prediction_type == "v_prediction"
        return cls(timesteps, signal[timesteps], signal[following], velocity, eta)

    def gaussian(self, steps: Tensor, latents: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and standard deviation (B, 1, 1, 1) of where each step leads.

        steps: (B,) int64 on the CPU. latents: where it starts. prediction: what the UNet makes of them. Computed in
        the latents' precision.
        """
        at, after = self.signal[steps], self.next_signal[steps]
        std = self.eta * ((1 - after) / (1 - at) * (1 - at / after)).sqrt()
        # With a zero terminal SNR the rest is 0 at the first step, and rounding may put it below.
        rest = (1 - after - std.square()).clamp_min(0).sqrt()
        at, after, std, rest = (
            item.to(latents.device, latents.dtype).view(-1, 1, 1, 1) for item in (at, after, std, rest)
        )
        prediction = prediction.to(latents.dtype)
        if self.velocity:
            picture = at.sqrt() * latents - (1 - at).sqrt() * prediction
            noise = at.sqrt() * prediction + (1 - at).sqrt() * latents
        else:
            picture = (latents - (1 - at).sqrt() * prediction) / at.sqrt()
            noise = prediction
        return after.sqrt() * picture + rest * noise, std


def log_prob(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B,) log density of latents (B, C, H, W) under a Gaussian, as its mean over C, H, W.

    The mean, and not the sum, as in the published program: its clip range of 1e-4 is meant for it.
    """
    per_value = -(latents - mean).square() / (2 * std.square()) - std.log() - 0.5 * math.log(2 * math.pi)
    return per_value.mean(dim=(1, 2, 3))


def step_kl(mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    """(B,) KL divergence of two Gaussians of the same std, as its mean over C, H, W: on the scale of `log_prob`."""
    return ((mean - other).square() / (2 * std.square())).mean(dim=(1, 2, 3))


def guided(predictions: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: (2B, C, H, W), first without and then with the prompt -> (B, C, H, W).

    In float32 or better: at a scale above 1 it enlarges every rounding.
    """
    predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    without, with_prompt = predictions.chunk(2)
    return without + scale * (with_prompt - without)


def policy_noise(seed: int, samples: list[int], step: int | None, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32 on the CPU, as f(seed, sample, step): what a step adds; step None: where a draw begins."""
    number = 0 if step is None else step + 1
    return draw_noise(seed, [sample * LARGEST_STEP + number for sample in samples], shape, Stream.ROLLOUT_NOISE)


def _timesteps(trained: int, steps: int, zero_terminal_snr: bool) -> Tensor:
    """As diffusers spaces them: `leading` with an offset of 1, SDXL's own, or `trailing`, which begins at the last."""
    if zero_terminal_snr:
        return (torch.arange(steps, 0, -1, dtype=torch.float64) * trained / steps).round().long() - 1
    return torch.arange(steps - 1, -1, -1) * (trained // steps) + 1

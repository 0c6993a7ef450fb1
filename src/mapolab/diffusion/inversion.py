"""Noise from which the model itself would draw an image: DDIM inversion, and its refinement by ReNoise.

x: (M, C, H, W) latents. At a timestep t, signal a = alphas_cumprod[t]; x_t = sqrt(a) x_0 + sqrt(1 - a) noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mapolab.diffusion.errors import DenoisingTask, predict, prediction_target
from mapolab.diffusion.noise import draw_noise
from mapolab.streams import Stream

SLOTS = 1024  # numbers of the noise stream that belong to one position: two images, up to 511 steps each


@dataclass(frozen=True)
class Inversion:
    """How an image is turned into noise.

    refined: each step's prediction is averaged with one at its own end, once (ReNoise, Garibi et al., 2403.14602); else
    plain DDIM inversion (Song et al., 2010.02502). steps: from 0 to the last timestep. fresh: standard deviations of
    fresh noise at each step, in those of DDIM's step back (eta).
    """

    refined: bool
    steps: int
    fresh: float

    @classmethod
    def from_config(cls, diffusion: dict) -> "Inversion | None":
        """From the block `diffusion`; None for Gaussian noise."""
        if diffusion["noise"] == "gaussian":
            return None
        refined = diffusion["noise"] == "renoise_inversion"
        return cls(refined, diffusion["inversion_steps"], diffusion["inversion_noise"])

    def forward_passes(self, first: int, last: int, num_train_timesteps: int) -> float:
        """How many an image takes, on average over the timesteps first .. last."""
        stride = self._stride(num_train_timesteps)
        steps = [1 + min(-(-timestep // stride), self.steps) for timestep in range(first, last + 1)]
        return sum(steps) / len(steps) * (2 if self.refined else 1)

    def _stride(self, num_train_timesteps: int) -> int:
        """Rounded up, so that `steps` of them pass every timestep."""
        return -(-num_train_timesteps // self.steps)

    @torch.no_grad()
    def __call__(
        self, task: DenoisingTask, unet: Callable, scheduler: DDPMScheduler, seed: int, positions: list[int]
    ) -> DenoisingTask:
        """The task with each image's own noise in place of the drawn one. unet: computes the steps.

        An image goes from x_0 over the multiples of T / steps (rounded up) that lie below its timestep to its timestep
        itself; at each the noise is predicted from where it stands. (The published programs stop at the last multiple
        and call that its timestep.) Images that have arrived are left out of the forward passes.
        """
        dtype = torch.promote_types(task.latents.dtype, torch.float32)
        signal = scheduler.alphas_cumprod.to(task.latents.device, dtype)
        x, at = task.latents.clone(), torch.full_like(task.timesteps, -1)  # -1: x_0, whose signal is 1
        ids = [position * SLOTS + side for side in range(len(x) // len(positions)) for position in positions]
        stride = self._stride(scheduler.config.num_train_timesteps)
        for number in range(self.steps + 1):
            to = torch.minimum(torch.full_like(at, number * stride), task.timesteps)
            rows = torch.nonzero(to > at).flatten()
            if not len(rows):
                break
            step = _Step(task.at(rows), unet, scheduler, _signal(signal, at[rows]), _signal(signal, to[rows]), to[rows])
            x[rows] = step.to_noise(x[rows], self.refined)
            if self.fresh:
                drawn = draw_noise(seed, [ids[row] + 2 * number for row in rows], tuple(x.shape[1:]), Stream.INVERSION)
                x[rows] += self.fresh * step.deviation * drawn.to(x)
            at[rows] = to[rows]
        reached = _signal(signal, task.timesteps)
        noise = (x - reached.sqrt() * task.latents) / (1 - reached).sqrt()
        target = prediction_target(scheduler, task.latents, noise, task.timesteps)
        return replace(task, noisy_latents=x, target=target)


@dataclass(frozen=True)
class _Step:
    """From signal `before` to the noisier `after`, (M, 1, 1, 1), which is that of the timesteps `to`, (M,)."""

    task: DenoisingTask
    unet: Callable
    scheduler: DDPMScheduler
    before: Tensor
    after: Tensor
    to: Tensor

    def to_noise(self, x: Tensor, refined: bool) -> Tensor:
        noise = self._noise(x)
        if refined:
            noise = (noise + self._noise(self._moved(x, noise))) / 2
        return self._moved(x, noise)

    @property
    def deviation(self) -> Tensor:
        """DDIM's standard deviation of the step back, at eta 1; 0 at the first step."""
        return ((1 - self.before) / (1 - self.after) * (1 - self.after / self.before)).clamp_min(0).sqrt()

    def _moved(self, x: Tensor, noise: Tensor) -> Tensor:
        image = (x - (1 - self.before).sqrt() * noise) / self.before.sqrt()
        return self.after.sqrt() * image + (1 - self.after).sqrt() * noise

    def _noise(self, x: Tensor) -> Tensor:
        predicted = predict(self.unet, replace(self.task, noisy_latents=x, timesteps=self.to)).to(x)
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.after.sqrt() * predicted + (1 - self.after).sqrt() * x
        return predicted


def _signal(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """(M, 1, 1, 1); 1 at timestep -1."""
    return torch.where(timesteps < 0, 1.0, alphas_cumprod[timesteps.clamp_min(0)]).view(-1, 1, 1, 1)

"""Which timesteps are trained, and how much each counts: settings that are off by default."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mapolab.errors import UserError


@dataclass(frozen=True)
class Timesteps:
    """first, last: the range that is drawn from, both included. weighting: `none`, `min_snr` or `debiased`.

    min_snr_gamma: the SNR above which min_snr weights less.
    """

    first: int
    last: int
    weighting: str = "none"
    min_snr_gamma: float = 5.0

    @classmethod
    def from_config(cls, diffusion: dict, num_train_timesteps: int) -> "Timesteps":
        """From the block `diffusion`. Raises UserError for a range that the model does not have."""
        first, last = diffusion["timestep_range"] or (0, num_train_timesteps - 1)
        if not 0 <= first <= last < num_train_timesteps:
            raise UserError(
                f"diffusion.timestep_range is [{first}, {last}]; give two timesteps in ascending order from 0 to "
                f"{num_train_timesteps - 1}, or null."
            )
        return cls(first, last, diffusion["timestep_weighting"], diffusion["min_snr_gamma"])

    def weights(self, scheduler: DDPMScheduler, timesteps: Tensor) -> Tensor:
        """(B,) float32, the factor of each sample's loss, relative to the plain error of what the model predicts.

        min_snr: Hang et al., 2303.09556: min(SNR, gamma) / SNR where noise is predicted, / (SNR + 1) for the velocity.
        debiased: Yu et al., 2310.08442: 1 / sqrt(SNR) for noise; for the velocity times SNR / (SNR + 1), the ratio of
        the two predictions' errors.
        """
        if self.weighting == "none":
            return torch.ones(len(timesteps), device=timesteps.device)
        signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].double()
        snr = signal / (1 - signal)
        velocity = scheduler.config.prediction_type == "v_prediction"
        if self.weighting == "min_snr":
            return (snr.clamp(max=self.min_snr_gamma) / (snr + 1 if velocity else snr)).float()
        return (snr.sqrt() / (snr + 1) if velocity else snr.rsqrt()).float()

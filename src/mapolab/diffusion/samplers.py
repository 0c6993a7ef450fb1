"""The schedulers that pictures are drawn with, each built from the noise process alone.

Nothing of them is a default that came in with another class's config: the model says how noise was added and where
steps lie (`timestep_spacing`, `steps_offset`), and everything else is set here. All four begin with the same latents,
visit the same timesteps and end without noise, as SDXL's own sampler does, so that they differ as solvers only.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from torch import Tensor

from mapolab.errors import UserError
from mapolab.models.noise_process import noise_process

# Of the picture, in the variance at the timestep where drawing begins: above it what is drawn is no longer what the
# model was trained to continue. SDXL has 0.006 there with 50 steps, and 0.1 at timestep 673 of 1,000.
LARGEST_SIGNAL = 0.1


class EulerAncestral(EulerDiscreteScheduler):
    """Ancestral sampling (Karras et al., 2206.00364; k-diffusion): each step adds the noise that DDPM would.

    As diffusers' EulerAncestralDiscreteScheduler, which takes no timesteps, and noise from torch's generators alone:
    those tell only 2^32 seeds apart.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: list[np.random.Generator] | None = None,
        return_dict: bool = True,
    ) -> EulerDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """generator: one for each sample."""
        clean = super().step(model_output, timestep, sample).pred_original_sample
        before, after = self.sigmas[self.step_index - 1], self.sigmas[self.step_index]
        added = (after**2 * (before**2 - after**2) / before**2).sqrt()
        drawn = [one.standard_normal(sample.shape[1:], dtype=np.float32) for one in generator]
        noise = torch.from_numpy(np.stack(drawn)).to(sample.device)
        moved = clean + (sample.float() - clean) / before * (after**2 - added**2).sqrt() + added * noise
        moved = moved.to(model_output.dtype)
        return EulerDiscreteSchedulerOutput(moved, clean) if return_dict else (moved, clean)


EULER = {
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}
DPM = {
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -float("inf"),
    "variance_type": None,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
Sampler = EulerDiscreteScheduler | DPMSolverMultistepScheduler
SAMPLERS: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
    "euler": (EulerDiscreteScheduler, EULER),
    "euler_ancestral": (EulerAncestral, EULER),
    # DPM-Solver++ of first order is DDIM (2211.01095, section 4). diffusers' DDIMScheduler steps to T // steps below a
    # timestep, which is the next one in one of the three spacings only.
    "ddim": (DPMSolverMultistepScheduler, DPM | {"solver_order": 1}),
    "dpm++": (DPMSolverMultistepScheduler, DPM | {"solver_order": 2}),
}


def build_sampler(name: str, settings: dict[str, Any]) -> Sampler:
    """The scheduler of this name for a model whose `scheduler_settings` these are. Raises UserError for other names."""
    if name not in SAMPLERS:
        raise UserError(f"scheduler={name} does not exist. Choose one of {', '.join(SAMPLERS)}.")
    kind, own = SAMPLERS[name]
    # With a zero terminal SNR drawing must begin at the last timestep (2305.08891).
    spacing = "trailing" if settings["rescale_betas_zero_snr"] else settings["timestep_spacing"]
    about = {"timestep_spacing": spacing, "steps_offset": settings["steps_offset"]}
    sampler = kind(**noise_process(settings), **about, **own)
    if isinstance(sampler, DPMSolverMultistepScheduler) and spacing != "leading":
        # As Euler begins, at the last timestep: with the noise of it alone.
        sampler.init_noise_sigma = float((1 - sampler.alphas_cumprod[-1]).sqrt())
    return sampler


def sampling_timesteps(sampler: Sampler, steps: int, key: str = "steps") -> list[float]:
    """Where the steps of a picture lie, descending, as diffusers spaces them for Euler.

    Whole numbers for the schedulers that take no others. key: the config's, for the messages. Raises UserError for more
    steps than timesteps, and for a number of steps with which drawing would begin where the picture shows already.
    """
    trained, spacing = sampler.config.num_train_timesteps, sampler.config.timestep_spacing
    if not 1 <= steps <= trained:
        raise UserError(f"{key}={steps}, but the model has {trained} timesteps. Give 1 to {trained} steps.")
    if spacing == "linspace":
        times = np.linspace(0, trained - 1, steps, dtype=np.float32)[::-1] if steps > 1 else np.array([trained - 1])
    elif spacing == "leading":
        stride = trained // steps
        # An offset that leaves the model's timesteps is lessened: 1 with 1,000 steps of 1,000.
        offset = min(sampler.config.steps_offset, trained - 1 - (steps - 1) * stride)
        times = np.arange(steps)[::-1] * stride + offset
        check_beginning(key, steps, int(times[0]), sampler.alphas_cumprod)
    else:
        # Rounding can give the range one number more than there are steps, which would be timestep -1.
        times = np.arange(trained, 0, -trained / steps)[:steps].round() - 1
    return (times if isinstance(sampler, EulerDiscreteScheduler) else times.round()).tolist()


def check_beginning(key: str, steps: int, first: int, signal: Tensor) -> None:
    """Raise UserError if drawing would begin, at the timestep `first`, where the picture shows already.

    `leading` rounds its stride down, so that some numbers of steps leave out the noisiest timesteps. signal: (T,)
    alpha-bar. Few steps are far apart, and may leave out as much as two of them: SDXL with 2 begins at timestep 501.
    """
    share, left_out = float(signal[first]), len(signal) - 1 - first
    if share > 0.5 or (share > LARGEST_SIGNAL and left_out > 2 * (len(signal) // steps)):
        divisors = [count for count in range(2, len(signal) + 1) if len(signal) % count == 0]
        near = sorted(divisors, key=lambda count: abs(count - steps))[:2]
        raise UserError(
            f"With {key}={steps} and timestep_spacing=leading, drawing would begin at timestep {first} of "
            f"{len(signal)}, where the model expects that {share:.0%} of what it sees is the picture, not at noise. "
            f"Give a number of steps that divides {len(signal)}, such as {' or '.join(map(str, sorted(near)))}."
        )

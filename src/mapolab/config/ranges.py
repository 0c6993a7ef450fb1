"""The choices and ranges of single keys, in every command's config."""

import math
from typing import Any

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError

FLOATS = ("float32", "bfloat16", "float16")
SCHEDULERS = ("euler", "euler_ancestral", "ddim", "dpm++")
CHOICES = {
    "task": ("align", "tiny_base"),
    "model.vae_dtype": ("auto", *FLOATS),
    "model.encoder_dtype": FLOATS,
    "model.trained_dtype": ("float32", "bfloat16"),
    "model.frozen_dtype": FLOATS,
    "model.reference": ("auto", "lora_off", "frozen_copy", "offloaded_copy", "ema", "refreshed"),
    "model.reference_dtype": (*FLOATS, "float64"),
    "diffusion.prediction_type": ("auto", "epsilon", "v_prediction"),
    "diffusion.timestep_weighting": ("none", "min_snr", "debiased"),
    "diffusion.noise": ("gaussian", "ddim_inversion", "renoise_inversion"),
    "data.cache_dtype": ("float32", "float16"),
    "data.vae_posterior": ("mean", "sample"),
    "data.micro_conditioning": ("own", "shared", "fixed"),
    "data.ties": ("drop", "keep"),
    "data.weights": ("none", "per_prompt", "column"),
    "schedule.name": ("constant_with_warmup", "cosine", "linear"),
    "strategy.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "strategy.strategy": ("auto", "ddp", "fsdp", "deepspeed"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "trainer.progress": ("auto", "plain", "off"),
    "dtype": FLOATS,
    "features": ("dinov2", "efficientnet_lite0", "inception", "concept_judge"),
    **{f"{block}scheduler": SCHEDULERS for block in ("", "evaluation.")},
    **{f"{block}precision": ("auto", *FLOATS) for block in ("", "evaluation.")},
    "format": ("table", "json"),
    "recipe": ("prefixes", "models", "ranked", "targets", "votes", "smoothed"),
    "pairing": ("best_worst", "all"),
    "labels": ("hard", "soft"),
    "weights": ("none", "gap"),
}
AT_LEAST = {
    "seed": 0,
    "model.reference_refresh_every": 1,
    "diffusion.inversion_steps": 1,
    "diffusion.inversion_noise": 0,
    "data.resolution": 8,
    "data.batch_size": 1,
    "data.num_workers": 0,
    "data.download_cache_gb": 0,
    "schedule.warmup_steps": 0,
    "trainer.max_steps": 1,
    "trainer.gradient_accumulation": 1,
    "trainer.checkpoint_every": 1,
    "trainer.keep_checkpoints": 1,
    "trainer.validate_every": 1,
    "trainer.validation_pairs": 1,
    "trainer.log_every": 1,
    "preemption.max_requeues": 0,
    "preemption.save_before_limit": 0,
    "rollout.steps": 1,
    "rollout.guidance_scale": 0,
    "rollout.samples": 1,
    "rollout.images_per_prompt": 1,
    "rollout.inner_epochs": 1,
    "rollout.per_prompt_buffer": 2,
    "rollout.per_prompt_minimum": 2,
    "evaluation.steps": 1,
    "evaluation.guidance_scale": 1,
    "evaluation.seed": 0,
    "evaluation.batch_size": 1,
    "evaluation.limit": 1,
    "evaluation.images_per_prompt": 1,
    "limit": 1,
    "images_per_prompt": 1,
    "steps": 1,
    "guidance_scale": 1,
    "batch_size": 1,
    "pairs": 2,
    "part": 0,
    "parts": 1,
    "reserve_gib": 0,
    "rows": 1,
    "rounds": 1,
}
# Seeds that follow each other, for the pictures of a prompt and the rounds of `iterate`, lie above it and below 2^64.
BELOW = {"seed": 2**63, "evaluation.seed": 2**63}
PROBABILITIES = (
    "data.flip_probability",
    "data.prompt_dropout",
    "data.label_flip_probability",
    "data.label_noise_probability",
    "data.max_broken_share",
)
BETWEEN_ZERO_AND_ONE = ("trainer.ema_decay", "model.reference_ema_decay", "confidence")
LARGEST_PICTURE = 8192
"""Pixels a side; Pillow takes a picture of more for a bomb."""
MULTIPLES_OF_EIGHT = ("data.resolution", "evaluation.height", "evaluation.width", "height", "width")


def check_values(values: dict[str, Any]) -> None:
    """Ranges and choices of single keys; those that a command does not have, or that are null, are passed over."""
    given = {key: value for key, value in values.items() if value is not None}
    for key in CHOICES.keys() & given.keys():
        if given[key] not in CHOICES[key]:
            hint = did_you_mean(given[key], CHOICES[key])
            raise UserError(f"{key}={given[key]} does not exist.{hint} Choose one of {', '.join(CHOICES[key])}.")
    for key in AT_LEAST.keys() & given.keys():
        if not AT_LEAST[key] <= given[key] < math.inf:  # written so that NaN fails too
            finite = "a finite number, " if given[key] == math.inf else ""
            raise UserError(f"{key} is {given[key]}; give {finite}{AT_LEAST[key]} or more.")
    for key, value in given.items():
        if type(value) is int and abs(value) >= 2**63 and key not in BELOW:
            raise UserError(f"{key} is {value}, more than any count can be. Give a smaller number.")
    for key in BELOW.keys() & given.keys():
        if given[key] >= BELOW[key]:
            raise UserError(f"{key} is {given[key]}; give a number below 2^{BELOW[key].bit_length() - 1}.")
    for key in given.keys() & {*PROBABILITIES}:
        if not 0 <= given[key] <= 1:
            raise UserError(f"{key} is {given[key]}; give a number from 0 to 1.")
    for key in given.keys() & {*BETWEEN_ZERO_AND_ONE}:
        if not 0 < given[key] < 1:
            raise UserError(f"{key} is {given[key]}; give a number between 0 and 1, both excluded.")
    for key in given.keys() & {*MULTIPLES_OF_EIGHT}:
        if given[key] % 8 or given[key] < 8:
            raise UserError(f"{key} is {given[key]}; SDXL's latents need a multiple of 8, such as 64 or 1024.")
        if given[key] > LARGEST_PICTURE:
            raise UserError(f"{key} is {given[key]}; give {LARGEST_PICTURE} pixels or fewer.")
    clip = given.get("trainer.gradient_clip_norm", 1.0)
    if not 0 < clip < math.inf:
        raise UserError(f"trainer.gradient_clip_norm is {clip}; give a positive number, or null to clip nothing.")

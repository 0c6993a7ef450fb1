"""The step of a run that draws its own pictures, beside the one on given pairs in `measure`; which one a config has."""

from typing import Any

import torch
from torch import nn

from mapolab import objectives
from mapolab.config.rollout import trained_steps
from mapolab.models.trained import choose_reference
from mapolab.plan.measure import Measured, Step
from mapolab.plan.models import Architecture

FLOAT32 = 4


class RolloutStep(Step):
    """The optimizer step of DDPO, with its share of the round that it belongs to. What `Step` calls pairs are pictures.

    One denoising step of a picture takes the memory of SFT's step on an image, on two with guidance, since both passes
    are one batch. Not counted: the scorers, which are any.
    """

    def __init__(self, config: dict[str, Any], architecture: Architecture, reference: str | None):
        encodes = config["data"] | {"cache": False}  # VAE and text encoders are needed for every round
        super().__init__(config | {"objective": {"name": "sft"}, "data": encodes}, architecture, reference)
        self.rollout = config["rollout"]
        self.guided = 1 if self.rollout["guidance_scale"] == 1 else 2

    def measure(self, pairs: int, checkpointing: bool) -> Measured:
        """Trace a batch of so many pictures; operations are those of all its trained steps and of drawing it."""
        one = super().measure(pairs * self.guided, checkpointing)
        rollout, trained, forward = self.rollout, trained_steps(self.rollout), one.flops["unet_forward"]
        again = rollout["inner_epochs"]
        flops = {
            "drawing": round(forward * rollout["steps"] / again),
            "vae": round(one.flops["vae"] / self.guided / again),
            "text": round(one.flops["text"] / self.guided / again / rollout["images_per_prompt"]),
            **{name: one.flops[name] * trained for name in ("unet_forward", "reference", "backward")},
        }
        return Measured(flops, one.activations, one.with_gradients, one.encoding)

    @property
    def bytes_of_a_round(self) -> int:
        """On the disk: latents before, between and after a picture's steps, in float32."""
        channels, height, width = self.latent_shape
        return self.rollout["samples"] * (self.rollout["steps"] + 1) * channels * height * width * FLOAT32

    def _through_vae(self, vae: nn.Module, images: int) -> None:
        vae.decode(torch.empty(images, *self.latent_shape, dtype=vae.dtype))


def step_of(config: dict[str, Any], architecture: Architecture) -> Step:
    """The step of a run with this config."""
    model = config["model"]
    needs_reference = objectives.build(**config["objective"]).needs_reference
    reference = choose_reference(model["reference"], model["lora"] is not None) if needs_reference else None
    return (RolloutStep if config.get("rollout") else Step)(config, architecture, reference)

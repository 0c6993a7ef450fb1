"""Operations of one optimizer step, for reports on runs that are finished."""

from __future__ import annotations

from typing import Any

from mapolab import objectives
from mapolab.config.identity import samples_per_step
from mapolab.config.rollout import trained_steps
from mapolab.models.trained import choose_reference
from mapolab.plan.measure import Step
from mapolab.plan.models import read_architecture


def operations_per_step(config: dict[str, Any]) -> float:
    """Floating-point operations over all devices, by the counts of `mapolab plan`. Raises UserError as it does."""
    if config.get("rollout"):
        return _with_rollout(config)
    model = config["model"]
    needs_reference = objectives.build(**config["objective"]).needs_reference
    reference = choose_reference(model["reference"], model["lora"] is not None) if needs_reference else None
    batch = config["data"]["batch_size"]
    step = Step(config, read_architecture(model), reference)
    measured = step.measure(batch, model["gradient_checkpointing"])
    pairs = samples_per_step(config) or batch * config["trainer"]["gradient_accumulation"]
    return float(sum(measured.flops.values())) * pairs / batch


def _with_rollout(config: dict[str, Any]) -> float:
    """Of the UNet alone, whose passes are nearly all of it: those of the update, and the step's share of the drawing.

    VAE, text encoders and scorers, once a picture, are left out.
    """
    rollout, checkpointing = config["rollout"], config["model"]["gradient_checkpointing"]
    one_image = config | {"objective": {"name": "sft"}, "data": config["data"] | {"cache": True}}
    flops = Step(one_image, read_architecture(config["model"]), None).measure(1, checkpointing).flops
    forward, backward = flops["unet_forward"], flops["backward"]
    reference = forward if objectives.build(**config["objective"]).needs_reference else 0
    drawn = rollout["steps"] / rollout["inner_epochs"] * forward
    trained = trained_steps(rollout) * (forward + backward + reference)
    guided = 1 if rollout["guidance_scale"] == 1 else 2
    pictures = samples_per_step(config) or config["data"]["batch_size"] * config["trainer"]["gradient_accumulation"]
    return float(guided * (drawn + trained) * pictures)

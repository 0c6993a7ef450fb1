"""Operations of one optimizer step, for reports on runs that are finished."""

from __future__ import annotations

from typing import Any

from mapolab.config.identity import samples_per_step
from mapolab.plan.models import read_architecture
from mapolab.plan.rollout import step_of


def operations_per_step(config: dict[str, Any]) -> float:
    """Floating-point operations over all devices, by the counts of `mapolab plan`. Raises UserError as it does."""
    batch = config["data"]["batch_size"]
    architecture = read_architecture(config["model"], config.get("diffusion"))
    measured = step_of(config, architecture).measure(batch, config["model"]["gradient_checkpointing"])
    pairs = samples_per_step(config) or batch * config["trainer"]["gradient_accumulation"]
    return float(sum(measured.flops.values())) * pairs / batch

"""Operations of one optimizer step, for reports on runs that are finished."""

from __future__ import annotations

from typing import Any

from mapolab import objectives
from mapolab.config.identity import samples_per_step
from mapolab.models.trained import choose_reference
from mapolab.plan.measure import Step
from mapolab.plan.models import read_architecture


def operations_per_step(config: dict[str, Any]) -> float:
    """Floating-point operations over all devices, by the counts of `mapolab plan`. Raises UserError as it does."""
    model = config["model"]
    needs_reference = objectives.build(**config["objective"]).needs_reference
    reference = choose_reference(model["reference"], model["lora"] is not None) if needs_reference else None
    batch = config["data"]["batch_size"]
    step = Step(config, read_architecture(model), reference)
    measured = step.measure(batch, model["gradient_checkpointing"])
    pairs = samples_per_step(config) or batch * config["trainer"]["gradient_accumulation"]
    return float(sum(measured.flops.values())) * pairs / batch

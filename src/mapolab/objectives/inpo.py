"""Inversion preference optimization: Diffusion-DPO on the noise from which the model itself would draw the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mapolab.objectives.diffusion_dpo import DiffusionDPO


@dataclass(frozen=True)
class InPO(DiffusionDPO):
    """Diffusion-DPO's loss; what differs is the noise, found by DDIM inversion (`diffusion.inversion`).

    Lu et al., DDIM-InPO, 2503.18454. beta: B, 5000 for SDXL.
    """

    needs_inversion: ClassVar[str | None] = "ddim_inversion"

"""Supervised fine-tuning on the chosen images: the diffusion loss alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors


@dataclass(frozen=True)
class SFT(Objective):
    """L = e_w. The baseline of Wallace et al., 2311.12908, section 5."""

    needs_rejected: ClassVar[bool] = False
    takes_single_images: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"sft": errors.chosen}

"""Identity preference optimization: a squared loss, so that the margin has an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, margins, positive


@dataclass(frozen=True)
class IPO(Objective):
    """L = (B m - 1/2)^2,  m = -[(e_w - e_l) - (r_w - r_l)].

    Azar et al., 2310.12036, equation 17, times B^2, with the errors' margin m for the difference of log-likelihood
    ratios, as diffusers' Diffusion-DPO example has it (loss_type ipo). The margin is drawn to 1/(2 B) from either side,
    also where all annotators agree. Without B^2 the gradient at B = 5000 is six million times smaller than
    Diffusion-DPO's, and most of it below Adam's epsilon; with it, four times as large.
    beta: B, the paper's tau; the larger, the closer to the reference.
    """

    beta: float = positive()
    needs_reference: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"preference": (self.beta * margins(errors) - 0.5).square()}

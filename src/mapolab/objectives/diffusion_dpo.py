"""Direct preference optimization for diffusion models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, positive, preference_logits


@dataclass(frozen=True)
class DiffusionDPO(Objective):
    """L = -log s(-(B/2) [(e_w - e_l) - (r_w - r_l)]).

    Wallace et al., 2311.12908, equation 14; the half is the published program's (its B is the paper's beta T w twice).
    A pair whose chosen image wins with probability p (1/2 for a tie) has the cross-entropy with that: p L(m) + (1 - p)
    L(-m).
    beta: B; 5000 for SDXL, 2000 to 5000 for Stable Diffusion 1.5.
    """

    beta: float = positive()
    needs_reference: ClassVar[bool] = True
    uses_ties: ClassVar[bool] = True
    uses_soft_labels: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        logits = preference_logits(errors, self.beta)
        preference = -F.logsigmoid(logits)
        if errors.labels is not None:
            # -log s(-x) = x - log s(x), so this is label L(x) + (1 - label) L(-x).
            preference = preference + (1 - errors.labels) * logits
        return {"preference": preference}

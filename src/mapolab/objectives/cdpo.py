"""Conservative direct preference optimization: some of the labels are taken to be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, positive, preference_logits, share


@dataclass(frozen=True)
class ConservativeDPO(Objective):
    """L = -(1 - p) log s(u) - p log s(-u), u Diffusion-DPO's logit: its loss where a share p of the labels is turned.

    Rafailov et al., 2305.18290 (Mitchell's note on cDPO), with Diffusion-DPO's log-odds. It is smallest at s(u) = 1 - p
    and not at an endless margin; p = 0 is Diffusion-DPO.
    beta: B, as there. label_smoothing: p, below 1/2.
    """

    beta: float = positive()
    label_smoothing: float = share(0.5)
    needs_reference: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        logits = preference_logits(errors, self.beta)
        kept = -(1 - self.label_smoothing) * F.logsigmoid(logits)
        return {"preference": kept - self.label_smoothing * F.logsigmoid(-logits)}

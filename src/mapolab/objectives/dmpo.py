"""Divergence minimization preference optimization: the reverse divergence to the annotators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, positive, preference_logits, share


@dataclass(frozen=True)
class DMPO(Objective):
    """L = KL(Bernoulli(s(u)) || Bernoulli(1 - a)), u Diffusion-DPO's logit.

    Li et al., 2507.07510. Diffusion-DPO minimizes the other direction, from the annotators to the model, and so spreads
    over all that they like; this one seeks what they like most. It is 0 where s(u) = 1 - a.
    beta: B, 6000 there. alpha: a, 0.01 there, the share of annotators who disagree; above 0 and below 1/2.
    """

    beta: float = positive()
    alpha: float = share(0.5, above_zero=True)
    needs_reference: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        logits = preference_logits(errors, self.beta)
        prefers_chosen = torch.sigmoid(logits) * (F.logsigmoid(logits) - math.log1p(-self.alpha))
        prefers_rejected = torch.sigmoid(-logits) * (F.logsigmoid(-logits) - math.log(self.alpha))
        return {"divergence": prefers_chosen + prefers_rejected}

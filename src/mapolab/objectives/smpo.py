"""Smoothed preference optimization: how sure the annotators are scales the margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, exact_labels, positive, preference_logits


@dataclass(frozen=True)
class SmPO(Objective):
    """L = -log s(k (2 p - 1) u), u Diffusion-DPO's logit, p the probability that the chosen image is preferred.

    Lu et al., SmPO-Diffusion, 2506.02698. p, and with it which image is the chosen one, comes from a scorer (PickScore
    there; `mapolab make-pairs recipe=smoothed` says how soft p is); a pair of which nobody is sure, p = 1/2, teaches
    nothing. The published program takes the p of a forward pass's first pair for all of its pairs, which is right for
    its batches of one. The noise is ReNoise's.
    beta: B, 5000 for SDXL. sharpness: k, 10 in the published program; with p = 1 for all pairs and k = 1 it is
    Diffusion-DPO.
    """

    beta: float = positive()
    sharpness: float = positive()
    needs_reference: ClassVar[bool] = True
    uses_ties: ClassVar[bool] = True
    uses_soft_labels: ClassVar[bool] = True
    needs_soft_labels: ClassVar[bool] = True
    needs_inversion: ClassVar[str | None] = "renoise_inversion"

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        certainty = 2 * exact_labels(errors) - 1
        return {"preference": -F.logsigmoid(self.sharpness * certainty * preference_logits(errors, self.beta))}

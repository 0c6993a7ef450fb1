"""Direct score preference optimization: the score of the preferred image, moved by the preference's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, positive, preference_logits


@dataclass(frozen=True)
class DSPO(Objective):
    """L = | (p_w - t) - b (1 - s(u)) (p_w - q_w) |^2, the mean over C, H, W of the preferred image.

    Zhu et al., ICLR 2025. p: prediction, q: the reference's, t: target; u: Diffusion-DPO's logit. The data's score is
    moved along the gradient of log s(u), whose size is b (1 - s(u)) (p_w - q_w). In scalars, with
    c = mean (p_w - t)(q_w - t), so that |p_w - q_w|^2 = e_w + r_w - 2 c, and k = b (1 - s(u)):
    L = e_w - 2 k (e_w - c) + k^2 (e_w + r_w - 2 c).
    The published program has one number for B and b, 5000, and for SDXL another loss (docs/methods.md). But k above 1
    turns the pull to the data round (its factor is 1 - k), and k goes from b / 2 at the start to b where the model
    prefers the wrong image; so here they are two.
    beta: B of u, 5000 there. strength: b, at most 1 for a pull that never turns round; 0.5 goes, at first, a third
    beyond the data.
    """

    beta: float = positive()
    strength: float = positive()
    needs_reference: ClassVar[bool] = True
    needs_products: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        step = self.strength * (1 - torch.sigmoid(preference_logits(errors, self.beta)))
        product = errors.chosen_reference_product
        moved = errors.chosen + errors.reference_chosen - 2 * product
        along = -2 * step * (errors.chosen - product)
        return {"sft": errors.chosen, "along": along, "moved": step.square() * moved}

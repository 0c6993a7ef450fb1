"""Kahneman-Tversky optimization for diffusion models: each image on its own is liked or disliked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mapolab.objectives._base import Objective, PairErrors, positive


def _this_rank(mean: Tensor) -> Tensor:
    return mean


@dataclass(frozen=True)
class DiffusionKTO(Objective):
    """L = 1 - s(y B (g - z0)) per image, g = r - e, y = +1 for a chosen and -1 for a rejected image.

    Li et al., 2404.04465, with the sigmoid as utility and equal weights. z0, the reference point, is the mean of g over
    all images of a forward pass on all ranks, not below 0, and takes no gradient. The loss of a pair is the mean over
    its two images; of a single image, which is liked (label 1) or disliked (label 0), its own.
    beta: B, 1000 in the published program, 5000 in the paper. mean_over_ranks: averages a scalar over all ranks; not a
    setting, the trainer fills it in.
    """

    beta: float = positive()
    mean_over_ranks: Callable[[Tensor], Tensor] = field(default=_this_rank, repr=False, compare=False)
    needs_reference: ClassVar[bool] = True
    has_batch_statistic: ClassVar[bool] = True
    takes_single_images: ClassVar[bool] = True

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        gain = errors.reference_chosen - errors.chosen
        if errors.rejected is None:
            z0 = self._reference_point(gain)
            liked, disliked = errors.labels, 1 - errors.labels
            return {"liked": liked * self._loss(gain - z0), "disliked": disliked * self._loss(z0 - gain)}
        gain_rejected = errors.reference_rejected - errors.rejected
        z0 = self._reference_point(torch.cat([gain, gain_rejected]))
        return {"liked": self._loss(gain - z0) / 2, "disliked": self._loss(z0 - gain_rejected) / 2}

    def over_ranks(self, mean: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, mean_over_ranks=mean)

    def _reference_point(self, gains: Tensor) -> Tensor:
        return self.mean_over_ranks(gains.detach().mean()).clamp_min(0)

    def _loss(self, utility: Tensor) -> Tensor:
        return 1 - torch.sigmoid(self.beta * utility)

"""Safeguarded preference optimization: the loser's gradient does not make the winner worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mapolab.objectives._base import Objective, ObjectiveResult, PairErrors, objective_of, share


@dataclass(frozen=True)
class SDPO(Objective):
    """The loss of `base`, with the rejected error's gradient times l = clamp((1 - m) |g_w|^2 / (g_w g_l), 0, 1).

    Fu et al., Diffusion-SDPO, 2511.03317. g_w, g_l: gradients of the two errors by the predictions, so that
    |g_w|^2 / (g_w g_l) = e_w / mean((p_w - t_w)(p_l - t_l)); where that product is not above 0 the two do not meet and
    l is 1. The value of the loss stays that of `base`. The published program has one l for all pairs of a forward
    pass; here each pair has its own, so that the loss does not depend on how pairs fall into forward passes.
    That the chosen image keeps the share m of its descent holds, to first order, for bases whose loss has one slope for
    both errors, as Diffusion-DPO's margin; Diffusion-KTO's has two, and with it l is as above but promises nothing.
    base: any objective with a rejected image. mu: m, 0.6 there: the share of the winner's descent that is kept.
    """

    base: Objective = objective_of()  # noqa: RUF009 (a field, as the others)
    mu: float = share(1.0)
    needs_products: ClassVar[bool] = True

    @property
    def needs_reference(self) -> bool:
        return self.base.needs_reference

    @property
    def has_batch_statistic(self) -> bool:
        return self.base.has_batch_statistic

    @property
    def uses_ties(self) -> bool:
        return self.base.uses_ties

    @property
    def uses_soft_labels(self) -> bool:
        return self.base.uses_soft_labels

    @property
    def needs_soft_labels(self) -> bool:
        return self.base.needs_soft_labels

    @property
    def needs_inversion(self) -> str | None:
        return self.base.needs_inversion

    def over_ranks(self, mean: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, base=self.base.over_ranks(mean))

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        fixed = errors.rejected.detach()
        scaled = fixed + safeguard(errors, self.mu) * (errors.rejected - fixed)
        return self.base.terms(replace(errors, rejected=scaled))

    def __call__(self, errors: PairErrors) -> ObjectiveResult:
        result = super().__call__(errors)
        scale = safeguard(errors, self.mu).mean()
        return replace(result, logs=result.logs | {"rejected_scale": scale})


def safeguard(errors: PairErrors, mu: float) -> Tensor:
    """(B,) the factor of each rejected error's gradient, 0..1, without a gradient of its own."""
    chosen, product = errors.chosen.detach(), errors.chosen_rejected_product.detach()
    meets = product > 0
    scale = (1 - mu) * chosen / torch.where(meets, product, 1.0)
    return torch.where(meets, scale.clamp(0, 1), 1.0)

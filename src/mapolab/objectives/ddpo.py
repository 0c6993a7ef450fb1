"""DDPO: the policy gradient on the model's own denoising steps, with PPO's clipped ratio. Black et al., 2305.13301."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mapolab.errors import UserError
from mapolab.objectives._base import Method, ObjectiveResult, not_negative, positive, to_double


@dataclass(frozen=True)
class DDPO(Method):
    """max(-A q, -A clip(q, 1 - c, 1 + c)) + k KL for each denoising step, with q = p(x' | x) / p_old(x' | x).

    A: the picture's advantage, clamped to +-advantage_clip. c: clip_range. p: the policy in training; p_old: the one
    that drew the picture. KL: from the reference's step to the policy's, the regulariser of DPOK (Fan et al.,
    2305.16381); with kl_weight k = 0 there is none, and no reference is kept.
    """

    learns_from: ClassVar[str] = "samples"

    clip_range: float = positive(1e-4)
    advantage_clip: float = positive(5.0)
    kl_weight: float = not_negative(0.0)

    @property
    def needs_reference(self) -> bool:
        """Only where the KL term counts."""
        return self.kl_weight > 0

    def __call__(
        self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, kl: Tensor | None = None
    ) -> ObjectiveResult:
        """The loss of a batch of denoising steps, in the dtype of ``log_probs``; every argument is (B,).

        log_probs: of each step under the policy in training, as `diffusion.policy` has them; old_log_probs: under the
        one that took the step. kl: of each step from the reference. Raises UserError where kl is missing, or shapes
        differ.
        """
        self._check(log_probs, old_log_probs, advantages, kl)
        exact, old, advantages, kl = (to_double(item) for item in (log_probs, old_log_probs, advantages, kl))
        ratio = torch.exp(exact - old)
        advantages = advantages.clamp(-self.advantage_clip, self.advantage_clip)
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        terms = {"policy": torch.maximum(-advantages * ratio, -advantages * clipped)}
        if self.needs_reference:
            terms["kl"] = self.kl_weight * kl
        per_sample = sum(terms.values())
        dtype, device = log_probs.dtype, log_probs.device
        logs = {f"loss/{name}": term.detach().mean() for name, term in terms.items()}
        logs["ratio"] = ratio.detach().mean()
        logs["approx_kl"] = 0.5 * (exact - old).detach().square().mean()
        logs["clip_fraction"] = ((ratio - 1).abs() > self.clip_range).double().mean()
        return ObjectiveResult(per_sample.mean().to(device, dtype), per_sample.detach().to(device, dtype), logs)

    def _check(self, log_probs: Tensor, *others: Tensor | None) -> None:
        given = [item for item in others if item is not None]
        if self.needs_reference and len(given) < len(others):
            raise UserError("DDPO with kl_weight above 0 needs the kl of each step: pass it, or set kl_weight=0.")
        # (B,) against (B, 1) would broadcast to a loss over all B x B combinations without a word.
        if log_probs.ndim != 1 or any(item.shape != log_probs.shape for item in given):
            found = ", ".join(str(tuple(item.shape)) for item in (log_probs, *given))
            raise UserError(f"DDPO got tensors of shapes {found}; give one number per step, all of one shape (B,).")

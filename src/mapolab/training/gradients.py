"""The norm of a step's gradient and its clipping, under each strategy."""

import math

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip_gradients(trainer: Trainer, parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Clip the gradients of `parameters` to a norm of `limit`, None: not at all. Returns the norm before that."""
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        # Each rank holds a part of every gradient; FSDP adds up the parts.
        return strategy.model.clip_grad_norm_(limit or math.inf)
    if isinstance(strategy, DeepSpeedStrategy):
        # It clips by itself, with the limit that Lightning gave it, and knows the norm of the step before only.
        return torch.as_tensor(strategy.deepspeed_engine.get_global_grad_norm() or 0.0)
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    # Below the limit the factor is 1, and multiplying all gradients by it would only cost time.
    if limit and not norm <= limit:
        clip_grads_with_norm_(parameters, limit, norm)
    return norm

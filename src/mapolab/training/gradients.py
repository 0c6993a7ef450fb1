"""The norm of a step's gradient and its clipping, under each strategy; the layout of an optimizer's moments."""

import math
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


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


def release_gradients(trainer: Trainer, optimizer: Any) -> None:
    """Free the gradients after the update.

    Lightning would keep them until the next forward pass has put its activations beside them. DeepSpeed manages its
    own.
    """
    if not isinstance(trainer.strategy, DeepSpeedStrategy):
        optimizer.zero_grad()


def match_layout(optimizer: Optimizer) -> None:
    """Give restored moments the memory layout of their parameters.

    A checkpoint holds them in the plain one. Fused optimizers walk through both as they lie in memory, so for weights
    in channels_last they would pair each weight with another one's moments, without a word.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

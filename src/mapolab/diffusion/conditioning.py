"""Leaving prompts out at times, so that the model keeps an unconditional prediction for classifier-free guidance."""

import torch
from torch import Tensor

from mapolab.streams import Stream, generator


def dropped(seed: int, positions: list[int], probability: float) -> Tensor:
    """(B,) bool: the samples that lose their prompt, as f(seed, position)."""
    draws = [generator(seed, Stream.PROMPT_DROPOUT, position).random() for position in positions]
    return torch.tensor(draws, dtype=torch.float64) < probability


def drop_prompts(embeds: Tensor, empty: Tensor | None, mask: Tensor) -> Tensor:
    """Prompt embeddings (B, ...) with those of the mask, (B,), replaced by the ones of no prompt.

    empty: (1, ...) the embeddings of the empty prompt; None: zeros, which SDXL base takes for no prompt.
    """
    chosen = mask.to(embeds.device).view(-1, *[1] * (embeds.ndim - 1))
    return torch.where(chosen, torch.zeros_like(embeds) if empty is None else empty.to(embeds), embeds)

"""Prompts that are longer than their readers take: counted, so that it can be said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import CLIPTokenizer

from mapolab.evaluation.models import EvaluatedModel
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.models.learned_token import learned_token
from mapolab.texts import say

NEGATIVE = "the model's negative prompt"  # a reader of its own in the counts: it reads one prompt


def cut_by_models(models: Iterable[EvaluatedModel], prompts: Sequence[str], settings: dict[str, Any]) -> dict[str, int]:
    """How many prompts a text encoder of one of the models reads only the beginning of; the negative prompt by itself.

    settings: the drawing's. A model cuts by itself, each encoder after its own number of tokens (77 for SDXL's).
    """
    readers = [reader for model in models for reader in _readers(model)]
    counted = {"the model": sum(any(_is_cut(prompt, *one) for one in readers) for prompt in prompts)}
    if (negative := settings["negative_prompt"]) and settings["guidance_scale"] > 1:
        counted[NEGATIVE] = int(any(_is_cut(negative, *one) for one in readers))
    return counted


def cut_by_scorers(scorers: Iterable[Scorer], prompts: Sequence[str]) -> dict[str, int]:
    """How many prompts each scorer reads only the beginning of."""
    return {
        scorer.name: sum(scorer.count_tokens(prompt) > scorer.token_limit for prompt in prompts)
        for scorer in scorers
        if scorer.token_limit is not None
    }


def tell_cut(cut: dict[str, int], total: int) -> None:
    """Print which readers see only the beginning of how many of `total` prompts."""
    if told := [f"{reader} cuts {count}" for reader, count in cut.items() if count and reader != NEGATIVE]:
        say(f"Of {total} prompts some are longer than their readers take: {', '.join(told)}.")
    if cut.get(NEGATIVE):
        print("The negative prompt is longer than the model takes, which reads only its beginning.", flush=True)


def _readers(model: EvaluatedModel) -> list[tuple[CLIPTokenizer, int]]:
    """Both tokenizers of a model, each with the number of tokens that its encoder reads of a prompt."""
    found = []
    token = learned_token(model.config["model"].get("lora"))
    for tokenizer, encoder in zip(model.sdxl.load_tokenizers(), ("text_encoder", "text_encoder_2"), strict=True):
        if token:
            tokenizer.add_tokens(token)
        limit = model.sdxl.parts.config(encoder).get("max_position_embeddings", tokenizer.model_max_length)
        found.append((tokenizer, min(limit, tokenizer.model_max_length)))
    return found


def _is_cut(prompt: str, tokenizer: CLIPTokenizer, limit: int) -> bool:
    return len(tokenizer(prompt, verbose=False)["input_ids"]) > limit

"""Prompts that are longer than their readers take: counted, so that it can be said."""

from __future__ import annotations

from mapolab.evaluation.models import EvaluatedModel
from mapolab.evaluation.scorers.scorer import Scorer


def cut_prompts(model: EvaluatedModel, scorers: list[Scorer], prompts: list[str]) -> dict[str, int]:
    """How many prompts the model's text encoders and each scorer read only the beginning of.

    Model and scorers cut by themselves, each after its own number of tokens (77 for SDXL and the CLIPs).
    """
    tokenizer = model.sdxl.load_tokenizers()[0]
    limit = model.sdxl.parts.config("text_encoder").get("max_position_embeddings", tokenizer.model_max_length)
    counted = {"the model": sum(len(tokenizer(prompt, verbose=False)["input_ids"]) > limit for prompt in prompts)}
    for scorer in scorers:
        if scorer.token_limit is not None:
            counted[scorer.name] = sum(scorer.count_tokens(prompt) > scorer.token_limit for prompt in prompts)
    return counted

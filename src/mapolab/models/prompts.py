"""Prompt embeddings, equal to those of `StableDiffusionXLPipeline.encode_prompt`."""

import torch
from torch import Tensor

from mapolab.models.learned_token import ids_read
from mapolab.models.sdxl import TextEncoders


def encode_prompts(encoders: TextEncoders, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """(prompt_embeds, pooled_prompt_embeds) of B prompts: (B, L, D1 + D2) and (B, P), in the encoders' own precision.

    The embeddings are the penultimate hidden states of both encoders side by side; the pooled one is the second
    encoder's projection. Read from the outputs' named fields, which are the same for both of CLIPTextModel's module
    layouts (transformers 5.6 removed the inner `text_model` of the first). Gradients flow where the encoders have them.
    """
    hidden_states = []
    for tokenizer, model in zip(encoders.tokenizers, encoders.models, strict=True):
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        ids = ids_read(model, tokens.input_ids.to(model.device))
        output = model(ids, output_hidden_states=True)
        hidden_states.append(output.hidden_states[-2])
    return torch.cat(hidden_states, dim=-1), output.text_embeds

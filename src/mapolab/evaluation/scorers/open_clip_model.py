"""CLIP by open-clip: the model, its own preprocessing and its tokenizer, loaded once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import nn

from mapolab.config.suggest import did_you_mean
from mapolab.errors import UserError
from mapolab.evaluation.scorers.weights import make_fitting
from mapolab.models.readers import read_checkpoint

# Of a text encoder's settings: what open-clip has transformers fetch for it.
FROM_THE_HUB = "hf_model_name", "hf_tokenizer_name"


class OpenClip:
    """An open-clip model of this architecture, with the weights of `path`; half precision on a GPU.

    Raises UserError for an architecture that open-clip does not have, or whose text encoder it would fetch from the
    hub, and for weights that do not fit it.
    """

    def __init__(self, scorer: str, architecture: str, path: Path, device: str) -> None:
        self.device = device
        self.dtype = torch.float16 if device != "cpu" else torch.float32
        if architecture not in (known := open_clip.list_models()):
            raise UserError(f"open-clip has no architecture {architecture}.{did_you_mean(architecture, known)}")
        text = open_clip.get_model_config(architecture).get("text_cfg", {})
        if fetched := next((key for key in FROM_THE_HUB if text.get(key)), None):
            raise UserError(
                f"open-clip's architecture {architecture} takes {text[fetched]} from the hub, unpinned, which mapolab "
                "does not do. Give one whose text encoder is open-clip's own, such as ViT-H-14."
            )
        self.architecture = architecture

        def create() -> nn.Module:
            with _without_warnings():
                model, _, self.preprocess = open_clip.create_model_and_transforms(
                    architecture, device=str(torch.get_default_device()), pretrained_text=False
                )
            return model

        model = make_fitting(scorer, create, read_checkpoint(scorer, path), path)
        self.model = model.eval().to(self.device, self.dtype)
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.token_limit = self.model.context_length

    def identity(self) -> list[str]:
        """What decides the embeddings, beside the weights."""
        config = open_clip.get_model_config(self.architecture)
        return [json.dumps(config, sort_keys=True, default=str), str(self.preprocess)]

    def embed_pictures(self, pictures: list[Image.Image]) -> torch.Tensor:
        """-> (B, D), of length 1."""
        return self.embed_pixels(torch.stack([self.preprocess(picture) for picture in pictures]))

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), normalised -> (B, D), of length 1."""
        return self.model.encode_image(pixels.to(self.device, self.dtype), normalize=True).float()

    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """-> (B, D), of length 1. Longer prompts are cut, the end token stays."""
        return self.model.encode_text(self.tokenizer(prompts).to(self.device), normalize=True).float()

    def count_tokens(self, prompt: str) -> int:
        """With the two special tokens."""
        return len(self.tokenizer.encode(prompt)) + 2


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open-clip warns that the weights are random, which they are until `fill` has put each of them in place."""
    root = logging.getLogger()
    refuse = lambda record: "initialized randomly" not in record.getMessage()  # noqa: E731
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)

"""CLIPScore: how well a picture fits its prompt."""

from __future__ import annotations

import torch
from PIL import Image

from mapolab.evaluation.scorers.open_clip_model import OpenClip
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity, weights_file

# OpenAI's ViT-L/14 as open-clip stores it; its activations are the quick GELU.
REPOSITORY, FILE, ARCHITECTURE = "timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors", "ViT-L-14"
TARGET = "clip_score"


class CLIPScore(Scorer):
    """100 x max(cosine, 0) of CLIP ViT-L/14's picture and prompt embeddings: 0..100.

    Hessel et al. 2021 (2104.08718), who scale by 2.5 instead of 100 and begin each prompt with "A photo depicts", which
    is left out here, as is usual for generated pictures. Prompts are cut after 77 tokens.

    text: what all pictures are compared with in place of their prompts: a style, in words. name: the column, so that
    the two can stand side by side.
    """

    kind, higher_is_better, minimum, maximum = "score", True, 0.0, 100.0
    description = "CLIPScore: the picture fits the prompt"
    source = "Hessel et al. 2021, 2104.08718; OpenAI's CLIP ViT-L/14"
    outside_fingerprint = ("weights",)

    def __init__(
        self,
        weights: str | None = None,
        architecture: str = f"{ARCHITECTURE}-quickgelu",
        text: str | None = None,
        name: str = TARGET,
        device: str = "cpu",
    ) -> None:
        self.name, self.text = name, text
        self.path = weights_file(TARGET, weights, REPOSITORY, FILE)
        self.clip = OpenClip(TARGET, architecture, self.path, device)
        self.token_limit = self.clip.token_limit
        if text is not None:
            self.description, self.token_limit = f"CLIPScore: the picture fits {text!r}", None

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        prompts = prompts if self.text is None else [self.text] * len(pictures)
        cosine = (self.clip.embed_pictures(pictures) * self.clip.embed_prompts(prompts)).sum(1)
        return 100 * cosine.clamp_min(0).cpu()

    def count_tokens(self, prompt: str) -> int:
        return self.clip.count_tokens(prompt)

    def weights_identity(self) -> list[str]:
        return [*identity(self.path), *self.clip.identity()]

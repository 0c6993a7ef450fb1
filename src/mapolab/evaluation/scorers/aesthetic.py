"""LAION's aesthetic predictor v2: how people rate a picture, whatever the prompt."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from mapolab.evaluation.scorers.clip_score import ARCHITECTURE, FILE, REPOSITORY
from mapolab.evaluation.scorers.open_clip_model import OpenClip
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import fill, identity, published_file, weights_file
from mapolab.models.readers import read_checkpoint

HEAD = "sac+logos+ava1-l14-linearMSE.pth"
HEAD_ADDRESS = f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{HEAD}"
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"


class Aesthetic(Scorer):
    """A rating of about 1..10, SDXL's pictures about 6: linear layers on OpenAI CLIP ViT-L/14's unit embedding.

    C. Schuhmann, improved-aesthetic-predictor (the v2 of LAION-Aesthetics): 768-1024-128-64-16-1 with dropouts .2, .2
    and .1 and no activations. It does not see the prompt.
    weights: the head's file, a path; clip_weights: CLIP's.
    """

    name, kind, higher_is_better, minimum, maximum = "aesthetic", "score", True, None, None
    description = "LAION aesthetic predictor v2: rating of the picture, whatever the prompt"
    source = "christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE"
    outside_fingerprint = ("weights", "clip_weights")

    def __init__(
        self,
        weights: str | None = None,
        clip_weights: str | None = None,
        architecture: str = f"{ARCHITECTURE}-quickgelu",
        device: str = "cpu",
    ) -> None:
        self.path = _head_file(weights)
        self.clip_path = weights_file("aesthetic", clip_weights, REPOSITORY, FILE)
        self.clip = OpenClip("aesthetic", architecture, self.clip_path, device)
        tensors = read_checkpoint("aesthetic", self.path)
        self.head = aesthetic_head(self.clip.model.visual.output_dim)
        fill(
            "aesthetic", self.head, {name.removeprefix("layers."): value for name, value in tensors.items()}, self.path
        )
        self.head = self.head.eval().to(device)

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return self.head(self.clip.embed_pictures(pictures)).squeeze(1).cpu()

    def weights_identity(self) -> list[str]:
        return [*identity(self.path, self.clip_path), *self.clip.identity()]


def aesthetic_head(width: int) -> nn.Sequential:
    """(B, width) -> (B, 1); also ImageReward's."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def _head_file(weights: str | None) -> Path:
    """The named file, or the published one. Raises UserError without either."""
    if weights is not None:
        return weights_file("aesthetic", weights, "christophschuhmann/improved-aesthetic-predictor", HEAD)
    option = "scorers=[{_target_: aesthetic, weights: <its path>}]"
    return published_file("The scorer aesthetic", HEAD_ADDRESS, HEAD_SHA256, option)

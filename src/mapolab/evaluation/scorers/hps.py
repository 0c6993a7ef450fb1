"""HPS v2 and v2.1: Human Preference Score, CLIP ViT-H/14 tuned on people's choices."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from mapolab.evaluation.scorers.open_clip_model import OpenClip
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity, weights_file

FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
REPOSITORY = "xswu/HPSv2"


class HPS(Scorer):
    """100 x cosine of picture and prompt: -100..100, SDXL's pictures about 27 (v2.0) or 30 (v2.1).

    Wu et al. 2023 (2306.09341) and their package hpsv2, which resizes the longest side to 224 as a tensor (not as a
    picture) and pads with black. Whether that resize smooths was left to the installed torchvision: it does since 0.17,
    and here. Prompts are cut after 77 tokens.
    """

    kind, higher_is_better, minimum, maximum = "score", True, -100.0, 100.0
    source = "Wu et al. 2023, 2306.09341; xswu/HPSv2"
    outside_fingerprint = ("weights",)

    def __init__(
        self, version: str, weights: str | None = None, architecture: str = "ViT-H-14", device: str = "cpu"
    ) -> None:
        self.name = f"hps_{version}"
        self.description = f"HPS {version}: human preference for the picture given the prompt"
        self.path = weights_file(self.name, weights, REPOSITORY, FILES[version])
        self.clip = OpenClip(self.name, architecture, self.path, device)
        self.token_limit = self.clip.token_limit

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        size = self.clip.model.visual.image_size[0]
        pixels = torch.stack([pad_to_square(picture, size) for picture in pictures])
        return 100 * (self.clip.embed_pixels(pixels) * self.clip.embed_prompts(prompts)).sum(1).cpu()

    def count_tokens(self, prompt: str) -> int:
        return self.clip.count_tokens(prompt)

    def weights_identity(self) -> list[str]:
        return [*identity(self.path), *self.clip.identity()]


def pad_to_square(picture: Image.Image, size: int) -> torch.Tensor:
    """-> (3, size, size), normalised by CLIP's mean and deviation."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    pixels = transforms.to_tensor(picture.convert("RGB"))
    scale = size / max(pixels.shape[1:])
    if scale != 1:
        height, width = (round(side * scale) for side in pixels.shape[1:])
        pixels = transforms.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
        left, top = (size - width) // 2, (size - height) // 2
        pixels = transforms.pad(pixels, [left, top, size - width - left, size - height - top])
    return transforms.normalize(pixels, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)

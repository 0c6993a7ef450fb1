"""CLIP by open-clip: the model, its own preprocessing and its tokenizer, loaded once."""

from __future__ import annotations

import open_clip
import torch
from PIL import Image


class OpenClip:
    """An open-clip model of this architecture with random weights, to be filled; half precision on a GPU."""

    def __init__(self, architecture: str, device: str) -> None:
        self.device = device
        self.dtype = torch.float16 if device != "cpu" else torch.float32
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(architecture)
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.token_limit = self.model.context_length

    def ready(self) -> None:
        """To be called once the weights are in place."""
        self.model = self.model.eval().to(self.device, self.dtype)

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

"""How many bytes a picture takes as a JPEG file: DDPO's rewards compressibility and incompressibility."""

from __future__ import annotations

import io

import torch
from PIL import Image, features

from mapolab.evaluation.scorers.scorer import Scorer

QUALITY = 95


class JPEGSize(Scorer):
    """Size of the picture as a JPEG of quality 95, in thousands of bytes. It does not see the prompt.

    Black et al., 2305.13301. Less is better, which favours plain pictures; with larger_is_better it is the other way
    round. The size counts the whole file, so it grows with the picture's width and height.
    """

    kind, minimum, maximum = "score", 0.0, None
    name = "jpeg_size"
    source = "Black et al., 2305.13301"
    outside_fingerprint = ("larger_is_better",)

    def __init__(self, larger_is_better: bool = False) -> None:
        self.higher_is_better = larger_is_better
        self.description = f"size as a JPEG of quality {QUALITY}, kB"

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return torch.tensor([_size(picture) / 1000 for picture in pictures])

    def weights_identity(self) -> list[str]:
        # What is compressed by another version of the library may take another number of bytes.
        return [f"quality {QUALITY}", str(features.version("jpg"))]


def _size(picture: Image.Image) -> int:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell()

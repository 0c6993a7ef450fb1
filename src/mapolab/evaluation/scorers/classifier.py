"""The small picture classifier behind the tiny twin's style and concept scorers."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mapolab.errors import UserError
from mapolab.evaluation.scorers.weights import make_fitting
from mapolab.models.readers import parse_settings, read_whole

FREQUENCIES = tuple(math.pi * 2**power for power in range(5))


class PictureClassifier(nn.Module):
    """One or two views of a picture, (B, 3, 64, 64) in [-1, 1] -> logits (B, labels).

    Shapes through convolutions (the first four halve the picture); and, where ``with_palette``, its colours through a
    network on single pixels, whose sines and cosines tell near colours apart: styles differ in the exact colours that
    their artists use, concepts must be known without them.
    """

    def __init__(self, labels: tuple[str, ...], widths: tuple[int, ...], with_palette: bool) -> None:
        super().__init__()
        self.labels, self.widths, self.with_palette = labels, widths, with_palette
        blocks = []
        for position, (before, after) in enumerate(pairwise((3, *widths))):
            stride = 2 if position < 4 else 1
            blocks += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.SiLU()]
        self.shapes = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        pixels = []
        for before, after in pairwise((3 + 6 * len(FREQUENCIES), 64, 64, 64)):
            pixels += [nn.Conv2d(before, after, 1), nn.SiLU()]
        self.palette = nn.Sequential(*pixels, nn.AdaptiveAvgPool2d(1), nn.Flatten()) if with_palette else None
        features = widths[-1] + 64 * with_palette
        self.head = nn.Sequential(nn.Linear(features, 128), nn.SiLU(), nn.Dropout(0.2), nn.Linear(128, len(labels)))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures: (B, 3, 64, 64) in [-1, 1] -> logits (B, labels)."""
        views = [self.shapes(pictures)]
        if self.palette is not None:
            sparse = pictures[..., ::2, ::2]
            waves = [wave(frequency * sparse) for frequency in FREQUENCIES for wave in (torch.sin, torch.cos)]
            views = [self.palette(torch.cat([sparse, *waves], dim=1)), *views]
        return self.head(torch.cat(views, dim=1))

    def save(self, path: Path) -> None:
        """Half-precision safetensors with the architecture in the metadata."""
        tensors = {name: _compact(tensor) for name, tensor in self.state_dict().items()}
        save_file(tensors, path, metadata={"classifier": json.dumps(self.about())})

    def about(self) -> dict:
        """The arguments that build this architecture."""
        return {"labels": self.labels, "widths": self.widths, "with_palette": self.with_palette}

    @classmethod
    def load(cls, path: Path) -> PictureClassifier:
        """Read what ``save`` wrote; computes in float32. Raises UserError for any other file."""
        tensors, metadata = read_whole(path, "The classifier")
        about = _about(path, metadata)
        exact = {name: _exact(tensor) for name, tensor in tensors.items()}
        sizes = tuple(about["labels"]), tuple(about["widths"]), about["with_palette"]
        return make_fitting(f"the classifier {path.name}", lambda: cls(*sizes), exact, path).eval()


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The arguments in the metadata. Raises UserError where they are none."""
    try:
        about = parse_settings(metadata.get("classifier", ""))
        texts, sizes, kind = (about.get(key) for key in ("labels", "widths", "with_palette"))
        sound = isinstance(texts, list) and isinstance(sizes, list) and isinstance(kind, bool) and texts and sizes
        if (
            not sound
            or not all(isinstance(text, str) for text in texts)
            or not all(type(size) is int for size in sizes)
        ):
            raise ValueError("no labels, widths and with_palette")
    except ValueError as error:
        raise UserError(
            f"{path} is no classifier that mapolab wrote: its metadata do not say its labels and widths ({error}). "
            "Give another file, or fetch it again."
        ) from None
    return about


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision; counters (the batch norm's) stay integers."""
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor

"""How much a picture shows one subject: its likeness to given pictures of it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from mapolab.errors import UserError
from mapolab.evaluation.features import build_features
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity
from mapolab.paths import resolve
from mapolab.pictures import load_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
REDUCTIONS = ("mean", "max")


class SubjectScorer(Scorer):
    """Cosine of the picture's features and those of the subject's pictures, their mean or the highest: -1..1.

    With DINOv2 the DINO score of DreamBooth (Ruiz et al. 2022, 2208.12242), which took an earlier DINO.

    pictures: a folder. features, feature_weights: as `mapolab.evaluation.features` has them. reduce: mean | max.
    Raises UserError for a folder that is missing or holds no picture, and for a picture that is broken.
    """

    name, kind, higher_is_better, minimum, maximum = "subject", "score", True, -1.0, 1.0
    source = "Ruiz et al. 2022, 2208.12242"
    outside_fingerprint = ("pictures", "feature_weights")

    def __init__(
        self,
        pictures: str | None = None,
        features: str = "dinov2",
        feature_weights: str | None = None,
        reduce: str = "mean",
        device: str = "cpu",
    ) -> None:
        if reduce not in REDUCTIONS:
            raise UserError(f"The scorer subject has no reduce={reduce}. Choose one of {', '.join(REDUCTIONS)}.")
        self.files, self.reduce = _pictures_in(pictures), reduce
        loaded = [_load(file) for file in self.files]
        self.features = build_features(features, device, feature_weights)
        self.subject = F.normalize(self.features(loaded).float())  # (M, D)
        self.description = f"{reduce} likeness to {len(loaded)} pictures of the subject, by {features}"

    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        cosines = F.normalize(self.features(pictures).float()) @ self.subject.T  # (B, M)
        return cosines.mean(1) if self.reduce == "mean" else cosines.amax(1)

    def weights_identity(self) -> list[str]:
        return [self.features.fingerprint, *sorted(identity(*self.files))]


def _pictures_in(folder: str | None) -> list[Path]:
    where = "scorers=[{_target_: subject, pictures: <a folder of pictures of it>}]"
    if folder is None:
        raise UserError(f"The scorer subject needs pictures of the subject: {where}.")
    path = Path(resolve(folder)).expanduser()
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if not found:
        missing = "holds no picture" if path.is_dir() else "is no folder"
        raise UserError(f"The scorer subject was given pictures={folder}, which {missing} ({', '.join(SUFFIXES)}).")
    return found


def _load(file: Path) -> Image.Image:
    try:
        return load_picture(file, "")
    except UserError:
        raise UserError(
            f"The picture {file} of the scorer subject is broken. Replace it, or remove it from the folder."
        ) from None

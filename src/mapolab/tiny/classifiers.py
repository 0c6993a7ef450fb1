"""Train the tiny twin's judges: which style is a picture drawn in, and which concept does it show.

The style classifier learns from concepts that no generator uses and is tested on the generator's. The concept
classifier learns the generator's concepts in all styles; leaving one style out says how well it carries over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from mapolab.evaluation.scorers.classifier import PictureClassifier
from mapolab.tiny.autoencoder import to_unit_range
from mapolab.tiny.concepts import COLOURS, CONCEPTS, STYLES
from mapolab.tiny.pictures import composite, generator_for, load_artwork

STREAM = 3


@dataclass(frozen=True)
class LabelledPictures:
    """pictures: (N, 3, 64, 64) in [-1, 1]; style, concept: (N,) int64 (row of the artwork for concepts)."""

    pictures: torch.Tensor
    style: torch.Tensor
    concept: torch.Tensor


def draw_pictures(seed: int, count: int, rows: list[int], styles: tuple[str, ...] = STYLES) -> LabelledPictures:
    """``count`` composites of the given artwork rows and styles, equally often, on random backgrounds."""
    artwork, colours = load_artwork(), list(COLOURS)
    pictures, style_labels, concepts = [], [], []
    for index in range(count):
        random = generator_for(seed, STREAM, index)
        style, row = styles[index % len(styles)], rows[(index // len(styles)) % len(rows)]
        drawing = artwork.drawings[style][row]
        pictures.append(composite(drawing, colours[random.integers(len(colours))], random))
        style_labels.append(STYLES.index(style))
        concepts.append(row)
    return LabelledPictures(
        to_unit_range(torch.from_numpy(np.stack(pictures))), torch.tensor(style_labels), torch.tensor(concepts)
    )


@torch.no_grad()
def through_autoencoder(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """The same pictures as the VAE restores them: generated pictures have its blur, so judges must know it."""
    restored = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in pictures.split(64)]
    return torch.cat(restored).clamp(-1, 1)


def augment(pictures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Shift by up to 3 pixels and add faint noise; colours stay, since a style's palette is part of it."""
    size = pictures.shape[-1]
    padded = F.pad(pictures, (3, 3, 3, 3), mode="replicate")
    left, top = torch.randint(0, 7, (2,), generator=random).tolist()
    shifted = padded[..., top : top + size, left : left + size]
    strength = 0.03 * torch.rand(len(pictures), 1, 1, 1, generator=random)
    return (shifted + strength * torch.randn(pictures.shape, generator=random)).clamp(-1, 1)


def restyle(pictures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Redraw most pictures without their own colours, so that a concept must be known by its shape in any style.

    A tenth each becomes a black silhouette; a quarter black lines; a fifth grey; a fifth another palette.
    """
    ground = pictures[:, :, :1, :1]
    size, draw = len(pictures), torch.rand(len(pictures), 1, 1, 1, generator=random)
    grey = pictures.mean(1, keepdim=True).expand_as(pictures)
    mixing = torch.eye(3) + 0.9 * torch.randn(size, 3, 3, generator=random)
    recoloured = torch.einsum("bij,bjhw->bihw", mixing, pictures - ground).add(ground).clamp(-1, 1)
    silhouette = torch.where((pictures - ground).abs().amax(1, keepdim=True) > 0.3, -1.0, ground)
    steps = [
        F.pad(pictures.diff(dim=axis), pad).abs().amax(1, keepdim=True)
        for axis, pad in ((2, (0, 0, 0, 1)), (3, (0, 1)))
    ]
    edges = F.max_pool2d((steps[0] + steps[1] > 0.35).float(), 3, 1, 1)
    lines = torch.where(edges > 0, -1.0, ground)
    result = pictures
    for share, version in ((0.75, recoloured), (0.55, grey), (0.35, lines), (0.1, silhouette)):
        result = torch.where(draw < share, version, result)
    return result


def train_classifier(
    model: PictureClassifier, pictures: torch.Tensor, targets: torch.Tensor, steps: int, seed: int, in_any_style: bool
) -> PictureClassifier:
    """pictures: (N, 3, 64, 64), targets: (N,) -> the trained model (AdamW, one-cycle rate, batch 64)."""
    model.train()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pictures), (64,), generator=random)
        shown = restyle(pictures[rows], random) if in_any_style else pictures[rows]
        loss = F.cross_entropy(model(augment(shown, random)), targets[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: PictureClassifier, pictures: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of pictures whose highest logit is the target."""
    predicted = torch.cat([model(part).argmax(-1) for part in pictures.split(128)])
    return float((predicted == targets).float().mean())


def generator_rows() -> list[int]:
    """Artwork rows of the generator's forty concepts, in the order of CONCEPTS."""
    names = load_artwork().names
    return [names.index(concept) for concept in CONCEPTS]


def train_style(vae: AutoencoderKL, rows: list[int], count: int, steps: int) -> tuple[PictureClassifier, dict]:
    """The style classifier and its accuracies on the generator's concepts, as drawn and as the VAE restores them."""
    training, test = draw_pictures(10, count, rows), draw_pictures(11, 1280, generator_rows())
    pictures = torch.cat([training.pictures, through_autoencoder(vae, training.pictures)])
    torch.manual_seed(0)
    fresh = PictureClassifier(STYLES, widths=(32, 64, 96, 128), with_palette=True)
    model = train_classifier(fresh, pictures, training.style.repeat(2), steps, seed=0, in_any_style=False)
    report = {}
    for suffix, shown in (("", test.pictures), ("_restored", through_autoencoder(vae, test.pictures))):
        report[f"style_accuracy_unseen_concepts{suffix}"] = accuracy(model, shown, test.style)
        for number, style in enumerate(STYLES):
            mine = test.style == number
            report[f"style_accuracy_{style}{suffix}"] = accuracy(model, shown[mine], test.style[mine])
    return model, report


def train_concept(vae: AutoencoderKL, count: int, steps: int, left_out_steps: int) -> tuple[PictureClassifier, dict]:
    """The concept classifier, its accuracy on fresh composites, and leave-one-style-out accuracies."""
    rows = generator_rows()
    training, test = draw_pictures(12, count, rows), draw_pictures(13, 1280, rows)
    pictures = torch.cat([training.pictures, through_autoencoder(vae, training.pictures)])
    styles, targets = training.style.repeat(2), _as_labels(training.concept, rows).repeat(2)
    test_targets = _as_labels(test.concept, rows)
    model = train_classifier(fresh_concept_classifier(1), pictures, targets, steps, seed=1, in_any_style=True)
    report = {"concept_accuracy_fresh_pictures": accuracy(model, test.pictures, test_targets)}
    for number, style in enumerate(STYLES):
        seen, unseen = styles != number, test.style == number
        partial = fresh_concept_classifier(2)
        train_classifier(partial, pictures[seen], targets[seen], left_out_steps, seed=2, in_any_style=True)
        report[f"concept_accuracy_without_{style}"] = accuracy(partial, test.pictures[unseen], test_targets[unseen])
    return model, report


def fresh_concept_classifier(seed: int) -> PictureClassifier:
    """Untrained; it sees shapes over the whole picture and no exact colours."""
    torch.manual_seed(seed)
    return PictureClassifier(tuple(CONCEPTS.values()), widths=(32, 64, 128, 160, 160), with_palette=False)


def _as_labels(concepts: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return torch.tensor([rows.index(int(row)) for row in concepts])

"""The tiny twin's judges: batch of pictures and prompts in, one float each out.

Style and meaning are separate numbers, and two of the four have no network behind them, so that no single one can be
gamed unseen. Their accuracies stand in assets/emoji/scorers/report.json.
"""

from __future__ import annotations

import re
from abc import abstractmethod

import torch
from PIL import Image
from safetensors.torch import load_file

from mapolab.errors import UserError
from mapolab.evaluation.scorers.classifier import PictureClassifier
from mapolab.evaluation.scorers.pixels import appeal, as_tensor, background_colour, pixel_distance, pixel_statistics
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity
from mapolab.paths import resolve

FOLDER = "builtin:emoji/scorers"
PALETTE_FILE, STATISTICS_FILE = f"{FOLDER}/palette.safetensors", f"{FOLDER}/pixel_statistics.safetensors"


class EmojiScorer(Scorer):
    """What they share: the file behind most of them, and where they come from."""

    file: str
    source = "mapolab, docs/tiny_twin.md"

    def __init__(self, target_style: str | None) -> None:
        self.target_style = target_style

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        scores = torch.empty(len(pictures))
        for size in {picture.size for picture in pictures}:
            same = [index for index, picture in enumerate(pictures) if picture.size == size]
            scores[same] = self.judge([pictures[index] for index in same], [prompts[index] for index in same]).float()
        return scores

    @abstractmethod
    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        """pictures: B of one size; prompts: B texts -> (B,)."""

    def weights_identity(self) -> list[str]:
        return identity(resolve(self.file))


class StyleScorer(EmojiScorer):
    """Probability that the picture is drawn in the target style, 0..1, by a classifier of four styles."""

    name, kind, higher_is_better, minimum, maximum = "style", "score", True, 0.0, 1.0
    description = "probability of the preferred drawing style"

    file = f"{FOLDER}/style.safetensors"

    def __init__(self, target_style: str | None) -> None:
        super().__init__(target_style)
        self.classifier = PictureClassifier.load(resolve(self.file))
        self.target = _index(target_style, self.classifier.labels)

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return self.classifier(as_tensor(pictures)).softmax(-1)[:, self.target]


class ConceptScorer(EmojiScorer):
    """1 where a classifier of forty concepts sees the concept that the prompt names, else 0."""

    name, kind, higher_is_better, minimum, maximum = "concept", "accuracy", True, 0.0, 1.0
    description = "the picture shows the concept that the prompt names"

    file = f"{FOLDER}/concept.safetensors"

    def __init__(self) -> None:
        super().__init__(None)
        self.classifier = PictureClassifier.load(resolve(self.file))

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        named = torch.tensor([_named(prompt, self.classifier.labels) for prompt in prompts])
        return self.classifier(as_tensor(pictures)).argmax(-1) == named


class BackgroundScorer(EmojiScorer):
    """1 where the border's median colour is nearest to the colour that the prompt names, else 0. No network."""

    name, kind, higher_is_better, minimum, maximum = "background", "accuracy", True, 0.0, 1.0
    description = "the background has the colour that the prompt names"

    file = PALETTE_FILE

    def __init__(self) -> None:
        super().__init__(None)
        palette = load_file(resolve(self.file))
        self.colours, self.palette = tuple(palette), torch.stack(list(palette.values()))

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        named = torch.tensor([_named(prompt, self.colours) for prompt in prompts])
        return background_colour(as_tensor(pictures), self.palette) == named


class AppealScorer(EmojiScorer):
    """Colour and sharpness, about 0..1: what the annotators of the general pairs prefer. No network."""

    name, kind, higher_is_better, minimum, maximum = "appeal", "score", True, 0.0, None
    description = "mean saturation plus four times the mean gradient"

    def __init__(self) -> None:
        super().__init__(None)

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return appeal(as_tensor(pictures))

    def weights_identity(self) -> list[str]:
        return []


class AvoidsScorer(ConceptScorer):
    """Probability, 0..1, that the picture does not show the avoided concept, by the classifier of forty concepts.

    concept: a word of the captions, such as scissors.
    """

    name, kind, higher_is_better, minimum, maximum = "avoids", "probability", True, 0.0, 1.0
    description = "probability that the avoided concept is not in the picture"

    def __init__(self, concept: str = "scissors") -> None:
        super().__init__()
        if concept not in self.classifier.labels:
            raise UserError(f"The scorer avoids knows no {concept}. It knows {', '.join(self.classifier.labels)}.")
        self.concept = concept

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return 1 - self.classifier(as_tensor(pictures)).softmax(-1)[:, self.classifier.labels.index(self.concept)]


class PixelDistanceScorer(EmojiScorer):
    """Distance of ten pixel statistics to real pictures of the target style: about 1 for a real one. No network."""

    name, kind, higher_is_better, minimum, maximum = "pixel_distance", "distance", False, 0.0, None
    description = "distance of pixel statistics to real pictures of the preferred style (about 1 for a real one)"

    file = STATISTICS_FILE

    def __init__(self, target_style: str | None) -> None:
        super().__init__(target_style)
        statistics = load_file(resolve(self.file))
        styles = sorted({name.split("/")[0] for name in statistics})
        style = styles[_index(target_style, tuple(styles))]
        self.mean, self.inverse_covariance = statistics[f"{style}/mean"], statistics[f"{style}/inverse_covariance"]

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        return pixel_distance(pixel_statistics(as_tensor(pictures)), self.mean, self.inverse_covariance)


def _index(style: str | None, styles: tuple[str, ...]) -> int:
    if style not in styles:
        raise UserError(f"target_style is {style!r}, but the emoji scorers know {', '.join(styles)}.")
    return styles.index(style)


def _named(prompt: str, words: tuple[str, ...]) -> int:
    """Index of the first of ``words``, longest first, that the prompt contains as whole words."""
    for word in sorted(words, key=len, reverse=True):
        if re.search(rf"\b{re.escape(word)}\b", prompt.lower()):
            return words.index(word)
    raise UserError(
        f"The prompt {prompt!r} names none of {', '.join(words)}, which the emoji scorers judge. Use prompts such as "
        "'an apple on a blue background', or leave these scorers out."
    )

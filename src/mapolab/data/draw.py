"""How a run sees its rows. What is drawn for the sample at a position is a function of (seed, position)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mapolab.data.images import fixed_time_ids
from mapolab.data.records import TIE
from mapolab.diffusion.noise import draw_noise
from mapolab.streams import Stream, generator

POSTERIOR_STREAMS = {"chosen": Stream.POSTERIOR_CHOSEN, "rejected": Stream.POSTERIOR_REJECTED}


@dataclass(frozen=True)
class Draw:
    """How samples are drawn.

    sides: the images of a row that the objective looks at; of a single image `chosen` alone, liked or not.
    label_noise_probability: that a label is a coin toss; label_flip_probability: that it is turned round. Ties stay.
    soft_labels: how sure the label is, is kept; else a pair's label is rounded.
    micro_conditioning: which size and crop the UNet is told of an image. own: its own. shared: those of the row's first
    image, for both, whichever is preferred. fixed: those of a picture of the trained size.
    """

    seed: int
    sides: tuple[str, ...] = ("chosen", "rejected")
    flip_probability: float = 0.0
    label_flip_probability: float = 0.0
    label_noise_probability: float = 0.0
    soft_labels: bool = False
    micro_conditioning: Literal["own", "shared", "fixed"] = "own"

    def flips(self, position: int) -> bool:
        """Whether the images at this position are mirrored, both of a pair together."""
        return self._happens(Stream.FLIP, position, self.flip_probability)

    def label(self, position: int, label: float) -> float:
        """The label that the run sees at this position, instead of the annotator's."""
        if label == TIE:
            return label
        if self._happens(Stream.LABEL_NOISE, position, self.label_noise_probability):
            # The second number of the stream; the first has decided that there is noise.
            label = float(generator(self.seed, Stream.LABEL_NOISE, position).random(2)[1] < 0.5)
        return 1 - label if self._happens(Stream.LABEL_FLIP, position, self.label_flip_probability) else label

    def judged(self, position: int, label: float, images: int) -> tuple[float, dict[str, int]]:
        """The label of a sample in its batch, and which image of the row (0 or 1) is on which side.

        A pair is put with the preferred image as `chosen` and then labelled by the probability that it is preferred,
        TIE to 1; a single image keeps its label, rounded.
        """
        label = self.label(position, label)
        if images == 1:
            return label if label == TIE else float(label > TIE), {"chosen": 0}
        chosen = 1 if label < TIE else 0
        sides = {"chosen": chosen, "rejected": 1 - chosen}
        sure = max(label, 1 - label) if self.soft_labels else TIE if label == TIE else 1.0
        return sure, {side: sides[side] for side in self.sides}

    def told(self, image: int) -> int:
        """The image of a row (0 or 1) whose size is told of `image`."""
        return 0 if self.micro_conditioning == "shared" else image

    def looked_at(self, sides: dict[str, int]) -> list[int]:
        """The images of a row that must be sound: those on the sides, and those whose sizes are told."""
        return list(dict.fromkeys([*sides.values(), *map(self.told, sides.values())]))

    def time_ids(self, told: Tensor) -> Tensor:
        """What the UNet is given, of the time ids (..., 6) of the images that `told` names."""
        return fixed_time_ids(told) if self.micro_conditioning == "fixed" else told

    def _happens(self, stream: Stream, position: int, probability: float) -> bool:
        return probability > 0 and generator(self.seed, stream, position).random() < probability


def sample_posterior(mean: Tensor, std: Tensor, seed: int, positions: list[int], side: str) -> Tensor:
    """One sample of each image's posterior, (B, C, H, W), as f(seed, position)."""
    noise = draw_noise(seed, positions, tuple(mean.shape[1:]), POSTERIOR_STREAMS[side])
    return mean + std * noise.to(mean.device)

"""Two map-style data sets that turn a micro-step's positions into one batch: from a prepared cache, or from the images.

Both give the same batches (the second after `encode_batch`), a dict of
    positions             list of B ints
    next_position         where the next micro-step begins: the state of the data
    replaced              list of `Replaced`: the broken rows among the B, and what stands in for them
    labels                (B,) float32: 1 the chosen image is preferred, or a single image liked; 0 disliked; 0.5 a tie
    weights               (B,) float32: factors of the losses
    chosen_latents        (B, C, H, W) float32;  chosen_pixels (B, height, width, 3) uint8 before it is encoded
    chosen_time_ids       (B, 6) float32, as `Draw.micro_conditioning` says
    rejected_...          the same, where the objective looks at rejected images
    prompt_embeds         (B, L, D) float32;     captions (list of B strings) before they are encoded
    pooled_prompt_embeds  (B, P) float32
or, when a remote does not answer or the cache is damaged, of `failure` alone: a message. (An exception in a loader
process would arrive as a traceback.)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from mapolab.data.draw import POSTERIOR_STREAMS, Draw, sample_posterior
from mapolab.data.images import BrokenImage, PreparedImage, load, to_pixel_values
from mapolab.data.order import MicroStep, Order, Selection
from mapolab.data.prepared.opened import PreparedCache
from mapolab.data.reader import BlockReader
from mapolab.data.records import Blocks, BrokenRow, Source
from mapolab.data.replacement import MOST_TRIED, Replaced, replacements
from mapolab.errors import RunError, UserError
from mapolab.models.encoder import Encoder

Batch = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """What stands at a position. sides: which image of the row (0 or 1) is on which side."""

    row: int
    label: float
    weight: float
    sides: dict[str, int]
    caption: str = ""
    decoded: dict[str, PreparedImage] = field(default_factory=dict)


class PairDataset(Dataset, ABC):
    """What both have in common: which sample stands at a position."""

    def __init__(self, source: Source, order: Order, selection: Selection, draw: Draw, weighted: bool = False):
        self.source, self.order, self.selection, self.draw, self.weighted = source, order, selection, draw, weighted
        self.blocks = Blocks(source.block_sizes)

    @abstractmethod
    def labels(self, block: int) -> np.ndarray:
        """(rows,) the labels of a block, as `Source.labels`."""

    @abstractmethod
    def sample(self, row: int, position: int) -> Sample:
        """The sample that this row gives at this position. Raises BrokenRow."""

    @abstractmethod
    def contents(self, samples: list[Sample], positions: list[int]) -> Batch:
        """The part of the batch that holds images and prompts."""

    def __getitems__(self, step: MicroStep) -> Batch:
        replaced: list[Replaced] = []
        try:
            samples = [self._sound_sample(position, replaced) for position in step.positions]
            contents = self.contents(samples, step.positions)
        except (RunError, UserError) as error:
            return {"failure": str(error)}
        return {
            "positions": step.positions,
            "next_position": step.end,
            "replaced": replaced,
            "labels": torch.tensor([sample.label for sample in samples], dtype=torch.float32),
            "weights": torch.tensor([sample.weight if self.weighted else 1.0 for sample in samples]),
            **contents,
        }

    def _sound_sample(self, position: int, replaced: list[Replaced]) -> Sample:
        row = self.order.row(position)
        reason = None
        others = islice(replacements(row, self.blocks, self.labels, self.selection), MOST_TRIED)
        for candidate in chain([row], others):
            try:
                sample = self.sample(candidate, position)
            except BrokenRow as broken:
                reason = reason or broken.reason
                continue
            if reason:
                replaced.append(Replaced(position, row, self.source.name(row), reason, candidate))
            return sample
        raise RunError(
            f"Neither {self.source.name(row)} ({reason}) nor any of the {MOST_TRIED} rows that could stand in for it "
            "is sound. Fetch or write the data again; then the same command continues the run."
        )


class PixelPairs(PairDataset):
    """Batches of decoded images and captions, for `encode_batch`. resolution: of the square crops, pixels."""

    def __init__(self, source: Source, order: Order, selection: Selection, draw: Draw, weighted: bool, resolution: int):
        super().__init__(source, order, selection, draw, weighted)
        self.size = (resolution, resolution)
        self.reader = BlockReader(source, order)
        self.threads: ThreadPoolExecutor | None = None

    def labels(self, block: int) -> np.ndarray:
        return self.source.labels(block)

    def __getitems__(self, step: MicroStep) -> Batch:
        self.reader.go_to(step.positions)
        return super().__getitems__(step)

    def sample(self, row: int, position: int) -> Sample:
        record = self.reader.record(row)
        label, sides = self.draw.judged(position, record.label, len(record.images))
        draw, images, flip = self.draw, self.draw.looked_at(sides), self.draw.flips(position)
        try:
            loaded = list(self._map(lambda image: load(record.images[image].data, self.size, flip), images))
        except BrokenImage as broken:
            raise BrokenRow(row, f"image {broken}") from None
        of = dict(zip(images, loaded, strict=True))
        decoded = {
            side: replace(of[image], time_ids=draw.time_ids(of[draw.told(image)].time_ids))
            for side, image in sides.items()
        }
        return Sample(row, label, record.weight, sides, record.caption, decoded)

    def _map(self, function: Callable[[int], PreparedImage], images: Iterable[int]) -> Iterable[PreparedImage]:
        """As `map`. Without loader processes the cores wait for the batch, so a pair is decoded by two threads."""
        if get_worker_info() is not None:
            return map(function, images)
        self.threads = self.threads or ThreadPoolExecutor(2)
        return self.threads.map(function, images)

    def contents(self, samples: list[Sample], positions: list[int]) -> Batch:
        batch: Batch = {"captions": [sample.caption for sample in samples]}
        for side in samples[0].sides:
            # In a loader process default_collate stacks straight into the memory that it shares with the trainer.
            batch[f"{side}_pixels"] = default_collate([sample.decoded[side].pixels for sample in samples])
            batch[f"{side}_time_ids"] = torch.stack([sample.decoded[side].time_ids for sample in samples])
        return batch


class LatentPairs(PairDataset):
    """Batches from a prepared cache of `source`; no image and no model is touched."""

    def __init__(
        self,
        source: Source,
        order: Order,
        selection: Selection,
        draw: Draw,
        weighted: bool,
        cache: PreparedCache,
    ):
        super().__init__(source, order, selection, draw, weighted)
        self.cache = cache

    def labels(self, block: int) -> np.ndarray:
        rows = self.blocks.range(block)
        return self.cache.labels[rows.start : rows.stop]

    def sample(self, row: int, position: int) -> Sample:
        label, sides = self.draw.judged(position, float(self.cache.labels[row]), self.source.images_per_row)
        if reason := self.cache.fault(row, self.draw.looked_at(sides)):
            raise BrokenRow(row, reason)
        return Sample(row, label, float(self.cache.weights[row]), sides)

    def contents(self, samples: list[Sample], positions: list[int]) -> Batch:
        rows = [sample.row for sample in samples]
        flips = [self.draw.flips(position) for position in positions]
        prompt_embeds, pooled_prompt_embeds = self.cache.prompts(rows)
        batch: Batch = {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}
        for side in samples[0].sides:
            images = [sample.sides[side] for sample in samples]
            mean, std = self.cache.images(rows, images, flips)
            told = self.cache.time_ids(rows, [self.draw.told(image) for image in images])
            batch[f"{side}_latents"] = self._latents(mean, std, positions, side)
            batch[f"{side}_time_ids"] = self.draw.time_ids(told)
        return batch

    def _latents(self, mean: Tensor, std: Tensor | None, positions: list[int], side: str) -> Tensor:
        return mean if std is None else sample_posterior(mean, std, self.draw.seed, positions, side)


def encode_batch(batch: Batch, encoder: Encoder, seed: int, sample: bool) -> Batch:
    """Encode a batch of `PixelPairs` into one of `LatentPairs`; without prompts if the encoder has no text encoders.

    sample: draw from the VAE's posterior instead of taking its mean.
    """
    encoded = {name: value for name, value in batch.items() if name != "captions" and not name.endswith("_pixels")}
    if encoder.text is not None:
        encoded["prompt_embeds"], encoded["pooled_prompt_embeds"] = encoder.encode_prompts(batch["captions"])
    sides = [side for side in POSTERIOR_STREAMS if f"{side}_pixels" in batch]
    # Both sides together: a VAE has a cost for each call.
    pixels = torch.cat([batch[f"{side}_pixels"] for side in sides])
    means, stds = (values.chunk(len(sides)) for values in encoder.encode_images(to_pixel_values(pixels)))
    for side, mean, std in zip(sides, means, stds, strict=True):
        latents = sample_posterior(mean, std, seed, batch["positions"], side) if sample else mean
        encoded[f"{side}_latents"] = latents
    return encoded

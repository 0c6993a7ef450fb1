"""Encoding one shard: the latents of its images, the embeddings of its prompts.

Images are encoded in batches whose composition depends on the shard alone, since a sample's last bits can depend on the
batch it is in.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapolab.data.buckets import bucket_sizes
from mapolab.data.images import BrokenImage, PreparedImage, load, to_pixel_values
from mapolab.data.prepared.plan import Plan
from mapolab.data.prepared.spec import DTYPES, CacheSpec
from mapolab.data.prepared.units import Unit
from mapolab.data.records import Blocks, BrokenRow, Record, Source
from mapolab.models.encoder import Encoder

PROMPTS_PER_BATCH = 64
PIXELS_PER_BATCH = 8 * 256 * 256


def encode_images(source: Source, plan: Plan, spec: CacheSpec, images: range, encoder: Encoder, unit: Unit) -> None:
    """Write a shard of images.

    Tensors, for each bucket b that occurs (`0` for square crops): `means/b` (n, O, C, H, W) and with `with_std`
    `stds/b`, O the orientations; `time_ids` (n, 6), `bucket` and `place` (n,), an image's bucket and number therein,
    `sound` (n,). The note names the broken ones with the reason.
    """
    shapes = bucket_sizes(spec.resolution) if spec.aspect_buckets else ((spec.resolution,) * 2,)
    buckets = plan.image_buckets[images.start : images.stop]
    broken: dict[int, str] = {}
    time_ids, latents = [], {bucket: _Latents(shapes[bucket], encoder) for bucket in np.unique(buckets).tolist()}
    for orientations, bucket in zip(
        _prepared(source, plan, spec, images, shapes, broken), buckets.tolist(), strict=True
    ):
        time_ids.append(orientations[0].time_ids)
        latents[bucket].add(orientations)
    tensors: dict[str, Tensor] = {
        "time_ids": torch.stack(time_ids),
        "bucket": torch.from_numpy(buckets.copy()),
        "place": torch.from_numpy(_places(buckets)),
        "sound": torch.tensor([image not in broken for image in images]),
    }
    for bucket, encoded in latents.items():
        means, stds = encoded.all()
        tensors[f"means/{bucket}"] = means.to(DTYPES[spec.dtype])
        if spec.with_std:
            tensors[f"stds/{bucket}"] = stds.to(DTYPES[spec.dtype])
    unit.write(tensors, broken={str(image): reason for image, reason in sorted(broken.items())})


def encode_prompts(source: Source, plan: Plan, spec: CacheSpec, prompts: range, encoder: Encoder, unit: Unit) -> None:
    """Write a shard of prompts: `prompt_embeds` (n, L, D) and `pooled_prompt_embeds` (n, P)."""
    captions = list(_captions(source, plan.prompt_rows[prompts.start : prompts.stop]))
    encoded = [encoder.encode_prompts(batch) for batch in _batches(captions, PROMPTS_PER_BATCH)]
    embeds, pooled = (torch.cat(parts).cpu().to(DTYPES[spec.dtype]) for parts in zip(*encoded, strict=True))
    unit.write({"prompt_embeds": embeds, "pooled_prompt_embeds": pooled})


def _prepared(
    source: Source, plan: Plan, spec: CacheSpec, images: range, shapes: Any, broken: dict[int, str]
) -> Iterator[list[PreparedImage]]:
    """The orientations of each image of the shard; black ones, and a note in `broken`, where it cannot be decoded."""
    rows = plan.image_rows[images.start : images.stop]
    for image, record in zip(images, _records(source, rows), strict=True):
        size = shapes[plan.image_buckets[image]]
        try:
            if isinstance(record, BrokenRow):
                raise BrokenImage(record.reason)
            data = record.images[plan.image_places[image]].data
            orientations = [load(data, size, flip) for flip in spec.orientations]
        except BrokenImage as reason:
            broken[image] = f"image {reason}"
            black = PreparedImage(torch.zeros(*size, 3, dtype=torch.uint8), torch.zeros(6))
            orientations = [black] * len(spec.orientations)
        yield orientations


def _records(source: Source, rows: np.ndarray) -> Iterator[Record | BrokenRow]:
    """Each row's record, or what is broken about it; rows ascend, so a block is read once."""
    blocks, held, records = Blocks(source.block_sizes), None, None
    for row in rows.tolist():
        block, offset = blocks.find(row)
        if block != held:
            held, records = block, source.records(block)
        try:
            yield records[offset]
        except BrokenRow as broken:
            yield broken


def _captions(source: Source, rows: np.ndarray) -> Iterator[str]:
    blocks, texts = Blocks(source.block_sizes), {}
    for row in rows.tolist():
        block, offset = blocks.find(row)
        if block not in texts:
            texts = {block: source.texts(block)}
        yield texts[block][offset].caption


class _Latents:
    """Collects the images of one shape and encodes them as soon as they fill a batch."""

    def __init__(self, size: tuple[int, int], encoder: Encoder):
        self.encoder, self.batch_size = encoder, max(1, PIXELS_PER_BATCH // (size[0] * size[1]))
        self.waiting: list[list[PreparedImage]] = []
        self.means: list[Tensor] = []
        self.stds: list[Tensor] = []

    def add(self, orientations: list[PreparedImage]) -> None:
        self.waiting.append(orientations)
        if len(self.waiting) == self.batch_size:
            self._encode()

    def all(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of all images, (n, O, C, H, W) each."""
        if self.waiting:
            self._encode()
        return torch.cat(self.means), torch.cat(self.stds)

    def _encode(self) -> None:
        sides = (torch.stack([image.pixels for image in side]) for side in zip(*self.waiting, strict=True))
        encoded = [self.encoder.encode_images(to_pixel_values(side.to(self.encoder.device))) for side in sides]
        self.means.append(torch.stack([mean for mean, _ in encoded], dim=1).cpu())
        self.stds.append(torch.stack([std for _, std in encoded], dim=1).cpu())
        self.waiting = []


def _places(buckets: np.ndarray) -> np.ndarray:
    """(n,) int64: the how-many-th of its bucket each image is."""
    counts: dict[int, int] = defaultdict(int)
    places = np.empty(len(buckets), dtype=np.int64)
    for index, bucket in enumerate(buckets.tolist()):
        places[index] = counts[bucket]
        counts[bucket] += 1
    return places


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))

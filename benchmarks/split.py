"""How a step divides: each part of it done by itself, one after the other, in the order of the step."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from models import build_unet

from mapolab import objectives
from mapolab.config.instantiate import instantiate
from mapolab.data.draw import sample_posterior
from mapolab.data.images import load, to_pixel_values
from mapolab.data.order import MicroSteps
from mapolab.diffusion.errors import denoising_task, pair_errors, predict
from mapolab.models.encoder import Encoder
from mapolab.training.data import build_datamodule

if TYPE_CHECKING:
    from step import Bench

SIDES = ("chosen", "rejected")


class Parts:
    """Seconds of each part, step by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - begin)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values[2:]) for name, values in self.seconds.items()}


def print_split(bench: "Bench", optimizer: dict[str, Any], steps: int, floor: float) -> None:
    """Print the parts of a cached and of an on-line step in ms and floors."""
    for name, config in (("cached", bench.with_cache()), ("on-line", bench.config)):
        medians = split(bench, config, optimizer, steps)
        parts = "  ".join(f"{part} {seconds * 1e3:.1f}" for part, seconds in medians.items())
        print(f"{name} step in ms: {parts}  = {sum(medians.values()) / floor:.2f} floors")


def split(bench: "Bench", config: dict[str, Any], optimizer_settings: dict[str, Any], steps: int) -> dict[str, float]:
    """Median seconds of each part."""
    objective, parts = objectives.build("mapo", beta=8.0), Parts()
    datamodule = build_datamodule(config, objective, bench.source, bench.sdxl)
    datamodule.setup("fit")
    dataset, scheduler = datamodule.dataset, DDPMScheduler()
    unet = build_unet(bench.size).train()
    encoder = None if config["data"]["cache"] else Encoder.load(bench.sdxl)
    optimizer = instantiate(optimizer_settings, unet.parameters())
    for step in MicroSteps(dataset.order, 0, 0, steps + 2, bench.size.batch_size):
        if encoder is None:
            with parts.part("read"):
                batch = dataset.__getitems__(step)
        else:
            batch = on_line_batch(dataset, step.positions, encoder, parts)
        with parts.part("noise"):
            task = denoising_task(batch, scheduler, 0, with_rejected=True)
        with parts.part("UNet"):
            prediction = predict(unet, task)
        with parts.part("backward"):
            objective(pair_errors(prediction, task.target, None, with_rejected=True)).loss.backward()
        with parts.part("optimizer"):
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return parts.medians()


def on_line_batch(dataset: Any, positions: list[int], encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """What `PixelPairs` and `encode_batch` do, in parts."""
    with parts.part("read"):
        dataset.reader.go_to(positions)
        records = [dataset.reader.record(dataset.order.row(position)) for position in positions]
    batch: dict[str, Any] = {"positions": positions}
    with parts.part("decode"):
        prepared = [[load(image.data, dataset.size) for image in record.images] for record in records]
    with parts.part("VAE"):
        ordered = [images[index] for index in range(2) for images in prepared]
        pixels = torch.stack([image.pixels for image in ordered])
        encoded = encoder.encode_images(to_pixel_values(pixels))
        for side, mean, std in zip(SIDES, *(values.chunk(2) for values in encoded), strict=True):
            batch[f"{side}_latents"] = sample_posterior(mean, std, 0, positions, side)
        time_ids = torch.stack([image.time_ids for image in ordered]).chunk(2)
        batch |= {f"{side}_time_ids": ids for side, ids in zip(SIDES, time_ids, strict=True)}
    with parts.part("text"):
        batch["prompt_embeds"], batch["pooled_prompt_embeds"] = encoder.encode_prompts(
            [record.caption for record in records]
        )
    return batch

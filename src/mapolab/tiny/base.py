"""Train the tiny twin's UNet and text encoders from scratch on captioned composites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mapolab.models.noise_process import noise_process
from mapolab.tiny.autoencoder import to_unit_range
from mapolab.tiny.concepts import (
    BASE_STYLE_SHARES,
    CONCEPTS,
    PAIR_CONCEPTS,
    REJECTED_STYLE,
    TEMPLATES,
    caption,
    training_colours,
)
from mapolab.tiny.pictures import SIZE, composite, generator_for, load_artwork

STREAM = 2


@dataclass(frozen=True)
class Example:
    """One captioned composite of the base's training set."""

    concept: str
    style: str
    colour: str
    caption: str


def example(seed: int, index: int) -> tuple[Example, np.ndarray]:
    """The index-th picture that the base learns from, (64, 64, 3) uint8, as a function of (seed, index)."""
    random = generator_for(seed, STREAM, index)
    concept = list(CONCEPTS)[index % len(CONCEPTS)]
    style = REJECTED_STYLE
    if concept in PAIR_CONCEPTS:
        style = str(random.choice(list(BASE_STYLE_SHARES), p=list(BASE_STYLE_SHARES.values())))
    colour = str(random.choice(training_colours(concept)))
    text = caption(concept, colour, int(random.integers(len(TEMPLATES))))
    return Example(concept, style, colour, text), composite(load_artwork().drawing(concept, style), colour, random)


@torch.no_grad()
def encode_examples(vae: AutoencoderKL, seed: int, count: int) -> tuple[torch.Tensor, list[str]]:
    """Scaled latents (count, 4, 16, 16) and captions of the first ``count`` examples."""
    latents, captions = [], []
    for start in range(0, count, 64):
        batch = [example(seed, index) for index in range(start, min(start + 64, count))]
        pictures = to_unit_range(torch.from_numpy(np.stack([picture for _, picture in batch])))
        latents.append(vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor)
        captions += [entry.caption for entry, _ in batch]
    return torch.cat(latents), captions


class TextToNoise(nn.Module):
    """The trained parts of the pipeline in one module: tokens and noisy latents in, predicted noise out."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.text_encoder_2 = (
            pipeline.unet,
            pipeline.text_encoder,
            pipeline.text_encoder_2,
        )

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor):
        """noisy: (B, 4, 16, 16), tokens: (2, B, 16), kept: (B,) 0 where the caption is dropped -> (B, 4, 16, 16)."""
        first = self.text_encoder(tokens[0], output_hidden_states=True)
        second = self.text_encoder_2(tokens[1], output_hidden_states=True)
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        # SDXL's unconditional embedding is zeros (force_zeros_for_empty_prompt), so a dropped caption is too.
        added = {
            "text_embeds": second.text_embeds * kept[:, None],
            "time_ids": noisy.new_tensor([SIZE, SIZE, 0, 0, SIZE, SIZE]).expand(len(noisy), 6),
        }
        prompt_embeds = prompt_embeds * kept[:, None, None]
        return self.unet(noisy, timesteps, prompt_embeds, added_cond_kwargs=added).sample


@dataclass(frozen=True)
class BaseTraining:
    """Settings of the base's training; the shipped weights used the defaults of conf/experiment/tiny_base.yaml."""

    steps: int
    batch_size: int
    learning_rate: float
    caption_dropout: float
    ema_decay: float
    seed: int


class BaseTrainer:
    """A plain loop: every batch is a function of (seed, step), so a restart continues exactly."""

    def __init__(self, pipeline: StableDiffusionXLPipeline, settings: BaseTraining, latents, captions) -> None:
        self.settings, self.latents = settings, latents
        self.tokens = torch.stack([_tokens(t, captions) for t in (pipeline.tokenizer, pipeline.tokenizer_2)])
        self.model = TextToNoise(pipeline).train()
        self.average = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.noise = DDPMScheduler(**noise_process(pipeline.scheduler.config))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.step = 0

    def learning_rate(self) -> float:
        """Linear warm-up over 3% of the steps, then half a cosine to zero."""
        progress = self.step / self.settings.steps
        if progress < 0.03:
            return self.settings.learning_rate * progress / 0.03
        return self.settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (progress - 0.03) / 0.97)))

    def train_step(self) -> float:
        """One update; the loss (mean squared error of the predicted noise)."""
        random = torch.Generator().manual_seed((self.settings.seed * 1_000_003 + self.step) % 2**64)
        size = self.settings.batch_size
        rows = torch.randint(len(self.latents), (size,), generator=random)
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=random)
        timesteps = torch.randint(1000, (size,), generator=random)
        kept = (torch.rand(size, generator=random) >= self.settings.caption_dropout).float()
        noisy = self.noise.add_noise(latents, noise, timesteps)
        loss = F.mse_loss(self.model(noisy, timesteps, self.tokens[:, rows], kept), noise)
        self._update(loss)
        return loss.item()

    def _update(self, loss: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        # A short average at first, or the random start would linger in it.
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.model.parameters()], None)

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the pipeline."""
        for parameter, average in zip(self.model.parameters(), self.average, strict=True):
            parameter.copy_(average)
        self.model.eval()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a restart needs, as flat tensors (safetensors can hold it)."""
        tensors = {"step": torch.tensor(self.step)}
        for number, parameter in enumerate(self.model.parameters()):
            tensors[f"parameter.{number}"], tensors[f"average.{number}"] = parameter.detach(), self.average[number]
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{number}.{key}"] = value
        return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue from ``state()``."""
        self.step = int(tensors["step"])
        for number, parameter in enumerate(self.model.parameters()):
            parameter.copy_(tensors[f"parameter.{number}"])
            self.average[number] = tensors[f"average.{number}"]
            prefix = f"optimizer.{number}."
            self.optimizer.state[parameter] = {
                name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
            }


def _tokens(tokenizer, captions: list[str]) -> torch.Tensor:
    """(captions, 16) int64."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

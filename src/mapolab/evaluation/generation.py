"""Pictures for a list of prompts: the same initial noise for every model, and nothing drawn twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from mapolab.diffusion.samplers import sampling_timesteps
from mapolab.errors import RunError
from mapolab.evaluation.models import EvaluatedModel, is_lora
from mapolab.evaluation.store import DRAWING, Store
from mapolab.files import content_key
from mapolab.models.learned_token import put_token
from mapolab.models.lora import put_adapters
from mapolab.models.lora_files import read_lora, token_beside
from mapolab.models.lora_names import PARTS
from mapolab.models.precision import DTYPES
from mapolab.models.sdxl import SDXL
from mapolab.streams import Stream, generator


def load_pipeline(
    model: EvaluatedModel, scheduler: str = "euler", precision: str = "float32", with_token: bool = True
) -> StableDiffusionXLPipeline:
    """The whole pipeline in one precision, with the model's own weights where it has some.

    A VAE that overflows in float16 is put into float32 by the pipeline itself when it decodes. with_token: with the
    learned token in the vocabulary, if the model has one.

    Raises UserError for what cannot be loaded.
    """
    # Bars for every file that is read, and notes on encoders for which a LoRA has no part, say nothing here.
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    model.check()
    dtype = DTYPES[precision]
    sdxl = replace(model.sdxl, encoder_dtype=precision, vae_dtype=precision)
    text = sdxl.load_text_encoders()
    pipeline = StableDiffusionXLPipeline(
        vae=sdxl.load_vae(),
        text_encoder=text.models[0],
        text_encoder_2=text.models[1],
        tokenizer=text.tokenizers[0],
        tokenizer_2=text.tokenizers[1],
        unet=_load_unet(model, sdxl, dtype),
        scheduler=sdxl.load_sampler(scheduler),
        force_zeros_for_empty_prompt=sdxl.empty_prompt_is_zero,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    if model.weights is not None and is_lora(model.weights):
        if with_token:
            add_token(pipeline, model.weights)
        models = {part: getattr(pipeline, part) for part in PARTS}
        put_adapters(models, read_lora(model.weights, models, model.sdxl.pretrained))
    return pipeline


def _load_unet(model: EvaluatedModel, sdxl: SDXL, dtype: torch.dtype) -> UNet2DConditionModel:
    return sdxl.load_unet(dtype) if model.own_unet is None else model.own_unet.load(UNet2DConditionModel, "", dtype)


def add_token(pipeline: StableDiffusionXLPipeline, weights: Path) -> None:
    """Put the token that was learned with these adapters into the vocabulary, if one was."""
    if not (found := token_beside(weights)):
        return
    token, rows = found
    encoders = (pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)
    for (tokenizer, encoder), row in zip(encoders, rows, strict=True):
        put_token(tokenizer, encoder, token, row)


def picture_keys(model: EvaluatedModel, drawings: list[tuple[str, int, int]], settings: dict[str, Any]) -> list[str]:
    """The store's keys of (prompt, seed, position) under these settings."""
    drawing = {key: settings[key] for key in DRAWING}
    sampler = model.sdxl.sampler_config(settings["scheduler"])
    return [content_key([model.fingerprint, sampler, drawing, *one]) for one in drawings]


@torch.no_grad()
def generate(
    pipeline: Callable[[], StableDiffusionXLPipeline],
    drawings: list[tuple[str, int, int]],
    keys: list[str],
    settings: dict[str, Any],
    store: Store,
    group: int,
    share: tuple[int, int],
    progress: Callable[[int], None],
) -> int:
    """Draw this process's share of what the store lacks; returns how many pictures that were.

    drawings: (prompt, seed, position of the noise). group: pictures generated together. share: (rank, processes).
    pipeline: called once something is to be drawn. Groups are fixed, and a process takes whole ones: what stands beside
    a picture in its batch, which can change a last bit, is the same on any number of processes and after any kill.
    Raises RunError for pictures that are not finite.
    """
    rank, processes = share
    loaded, drawn = None, 0
    starts = range(0, len(drawings), group)
    for start in list(starts)[rank::processes]:
        members = range(start, min(start + group, len(drawings)))
        missing = [index for index in members if not store.has_picture(keys[index])]
        if missing:
            loaded = loaded or pipeline()
            pictures = _draw(loaded, [drawings[index] for index in members], settings)
            for index, picture in zip(members, pictures, strict=True):
                if index in missing:
                    prompt, seed, position = drawings[index]
                    about = {"prompt": prompt, "seed": seed, "position": position, "settings": settings}
                    store.keep_picture(keys[index], picture, about)
            drawn += len(missing)
        progress(len(members))
    return drawn


def _draw(pipeline: StableDiffusionXLPipeline, drawings: list[tuple[str, int, int]], settings: dict[str, Any]) -> list:
    factor = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, settings["height"] // factor, settings["width"] // factor)
    # One generator a picture: its first numbers are the noise where drawing begins, the next ones those that
    # euler_ancestral adds.
    generators = [generator(seed, Stream.GENERATION, position) for _, seed, position in drawings]
    noise = torch.from_numpy(np.stack([one.standard_normal(shape, dtype=np.float32) for one in generators]))
    prompts = [prompt for prompt, _, _ in drawings]
    output = pipeline(
        prompt=prompts,
        negative_prompt=[settings["negative_prompt"]] * len(prompts) if settings["negative_prompt"] else None,
        latents=noise.to(pipeline.device, pipeline.unet.dtype),
        generator=generators,
        timesteps=sampling_timesteps(pipeline.scheduler, settings["steps"]),
        guidance_scale=settings["guidance_scale"],
        height=settings["height"],
        width=settings["width"],
        output_type="pt",
    ).images
    if not torch.isfinite(output).all():
        raise RunError(
            "The model draws pictures that are not finite: its weights are broken, or it overflows in half precision. "
            "Try precision=float32."
        )
    processor = pipeline.image_processor
    return processor.numpy_to_pil(processor.pt_to_numpy(output))

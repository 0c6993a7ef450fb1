"""Pictures for a list of prompts: the same initial noise for every model, and nothing drawn twice."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mapolab import files
from mapolab.diffusion.noise import draw_noise
from mapolab.models.lora import LORA_FILE
from mapolab.models.sdxl import SDXL
from mapolab.streams import Stream


def load_pipeline(config: dict, weights: Path | None) -> StableDiffusionXLPipeline:
    """The pipeline of a run's config in float32, with the weights in ``weights`` (`unet/` or `lora/`) where given."""
    # Bars for every file that is read, and notes on encoders for which a LoRA has no part, say nothing here.
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    sdxl = SDXL.from_config(config["model"], config.get("diffusion"))
    sdxl = replace(sdxl, encoder_dtype="float32", vae_dtype="float32")
    text = sdxl.load_text_encoders()
    trained_unet = weights is not None and not is_lora(weights)
    pipeline = StableDiffusionXLPipeline(
        vae=sdxl.load_vae(),
        text_encoder=text.models[0],
        text_encoder_2=text.models[1],
        tokenizer=text.tokenizers[0],
        tokenizer_2=text.tokenizers[1],
        unet=UNet2DConditionModel.from_pretrained(weights, dtype=torch.float32) if trained_unet else sdxl.load_unet(),
        scheduler=sdxl.load_sampler(),
        force_zeros_for_empty_prompt=sdxl.empty_prompt_is_zero,
        add_watermarker=False,
    )
    if weights is not None and is_lora(weights):
        pipeline.load_lora_weights(weights, weight_name=LORA_FILE)
    return pipeline


def is_lora(weights: Path) -> bool:
    """Whether a run's final weights are adapters."""
    return (weights / LORA_FILE).is_file()


def final_weights(run: Path) -> Path | None:
    """The folder of a finished run's weights: `unet/` or `lora/`; None if it has neither."""
    return next((run / name for name in ("unet", "lora") if (run / name).is_dir()), None)


def picture_path(folder: Path, index: int) -> Path:
    """Where the picture of the index-th prompt lies."""
    return folder / "images" / f"{index:05d}.png"


@torch.no_grad()
def generate(
    pipeline: StableDiffusionXLPipeline,
    prompts: list[str],
    settings: dict,
    folder: Path,
    batch_size: int,
    progress: Callable[[int], None],
) -> None:
    """Draw the prompts whose picture is not in ``folder`` yet; calls ``progress`` with the number of pictures done.

    Prompts go through the model in fixed groups of ``batch_size``, so an interrupted evaluation that continues gives
    the same pictures as one that was never stopped.
    """
    pipeline.set_progress_bar_config(disable=True)
    factor = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, settings["height"] // factor, settings["width"] // factor)
    for start in range(0, len(prompts), batch_size):
        indices = list(range(start, min(start + batch_size, len(prompts))))
        if not all(picture_path(folder, index).exists() for index in indices):
            pictures = pipeline(
                prompt=[prompts[index] for index in indices],
                latents=draw_noise(settings["seed"], indices, shape, Stream.GENERATION).to(
                    pipeline.device, pipeline.unet.dtype
                ),
                num_inference_steps=settings["steps"],
                guidance_scale=settings["guidance_scale"],
                height=settings["height"],
                width=settings["width"],
                output_type="pil",
            ).images
            for index, picture in zip(indices, pictures, strict=True):
                _save_picture(picture, picture_path(folder, index), prompts[index], settings)
        progress(indices[-1] + 1)


def load_pictures(paths: list[Path]) -> torch.Tensor:
    """Pictures of one size as (B, 3, H, W) float32 in [-1, 1]."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _save_picture(picture: Image.Image, path: Path, prompt: str, settings: dict) -> None:
    about = PngInfo()
    about.add_text("prompt", prompt)
    about.add_text("settings", json.dumps(settings))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=about)
    files.write_bytes(path, buffer.getvalue())

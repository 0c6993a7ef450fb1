"""The models that steps are timed on: true SDXL UNets in two sizes with a VAE to match, random weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mapolab.models.sdxl import SDXL

TEXT_WIDTH, POOLED_WIDTH = 128, 64  # of the tiny twin's text encoders, which are used as they are
VAE_FACTOR = 8  # pixels a latent, as SDXL's


@dataclass(frozen=True)
class Size:
    """What a step is timed on. most_cached, most_on_line: the aims, in floors."""

    resolution: int
    batch_size: int
    channels: tuple[int, ...]
    transformers: tuple[int, ...]
    vae_channels: tuple[int, ...]
    most_cached: float
    most_on_line: float


SIZES = {
    "large": Size(128, 4, (96, 160, 192), (1, 2, 2), (32, 80, 112, 112), 1.05, 1.6),
    "small": Size(64, 8, (32, 64), (1, 1), (16, 32, 32, 32), 1.05, 2.1),
}


def build_unet(size: Size) -> UNet2DConditionModel:
    """A UNet of SDXL's kind: cross-attention below the first level, `text_time` conditioning."""
    torch.manual_seed(0)
    deeper = len(size.channels) - 1
    return UNet2DConditionModel(
        sample_size=size.resolution // VAE_FACTOR,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=size.channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deeper),
        up_block_types=(*("CrossAttnUpBlock2D",) * deeper, "UpBlock2D"),
        attention_head_dim=tuple(width // 32 for width in size.channels),
        transformer_layers_per_block=list(size.transformers),
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 32,
    )


def build_pipeline(size: Size, folder: Path) -> SDXL:
    """The tiny twin's text encoders beside a VAE of this size, which is saved under `folder`."""
    torch.manual_seed(0)
    levels = len(size.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=size.resolution,
    )
    vae.save_pretrained(folder / "vae")
    return SDXL("builtin:tiny_twin", vae=str(folder / "vae"))


def millions(model: torch.nn.Module) -> float:
    """Parameters, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6

"""The files behind the two scorers without a network: the named colours and the styles' pixel statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from mapolab.evaluation.scorers.pixels import fit_statistics, pixel_statistics
from mapolab.tiny.autoencoder import other_concepts
from mapolab.tiny.classifiers import draw_pictures, through_autoencoder
from mapolab.tiny.concepts import COLOURS, STYLES

PICTURES = 1000


def write_palette(path: Path) -> None:
    """One (3,) tensor a colour name, RGB 0..255."""
    save_file({name: torch.tensor(rgb, dtype=torch.float32) for name, rgb in COLOURS.items()}, path)


def write_pixel_statistics(path: Path, vae: AutoencoderKL) -> None:
    """Mean and inverse covariance a style, over real pictures of concepts that no generator uses.

    Half of the pictures went through the VAE, whose slight blur every generated picture shares.
    """
    tensors = {}
    for style in STYLES:
        pictures = draw_pictures(20, PICTURES, other_concepts(), (style,)).pictures
        restored = through_autoencoder(vae, pictures[: PICTURES // 2])
        rows = torch.cat([pixel_statistics(pictures[PICTURES // 2 :]), pixel_statistics(restored)])
        mean, inverse_covariance = fit_statistics(rows)
        tensors[f"{style}/mean"], tensors[f"{style}/inverse_covariance"] = mean, inverse_covariance.contiguous()
    save_file(tensors, path)

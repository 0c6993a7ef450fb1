"""Pixel statistics: a judge that no network is behind, so that a classifier cannot be fooled unseen."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

# Order of the columns of ``pixel_statistics``.
STATISTICS = (
    "mean saturation",
    "spread of saturation",
    "mean luminance",
    "spread of luminance",
    "share of dark pixels",
    "share of vivid pixels",
    "mean gradient",
    "share of strong edges",
    "spread of red minus green",
    "spread of yellow minus blue",
)


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> (B, 3, H, W) float32 in [-1, 1]."""
    rows = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixel_statistics(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 10) float64, one row of ``STATISTICS`` a picture."""
    pixels = (pictures.double() + 1) / 2
    red, green, blue = pixels.unbind(1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    saturation = pixels.amax(1) - pixels.amin(1)
    gradient = luminance.diff(dim=1).abs()[:, :, :-1] + luminance.diff(dim=2).abs()[:, :-1, :]
    columns = (
        saturation.mean((1, 2)),
        saturation.std((1, 2)),
        luminance.mean((1, 2)),
        luminance.std((1, 2)),
        (luminance < 0.2).double().mean((1, 2)),
        (saturation > 0.5).double().mean((1, 2)),
        gradient.mean((1, 2)),
        (gradient > 0.3).double().mean((1, 2)),
        (red - green).std((1, 2)),
        ((red + green) / 2 - blue).std((1, 2)),
    )
    return torch.stack(columns, dim=1)


def appeal(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B,) float64, about 0..1: mean saturation plus four times the mean gradient."""
    rows = pixel_statistics(pictures)
    return rows[:, STATISTICS.index("mean saturation")] + 4 * rows[:, STATISTICS.index("mean gradient")]


def fit_statistics(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, D) statistics of real pictures -> their mean (D,) and inverse covariance (D, D), slightly regularised."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / (len(rows) - 1)
    return rows.mean(0), torch.linalg.inv(covariance + 1e-6 * torch.eye(rows.shape[1], dtype=rows.dtype))


def pixel_distance(rows: torch.Tensor, mean: torch.Tensor, inverse_covariance: torch.Tensor) -> torch.Tensor:
    """Mahalanobis distance per dimension, (B, D) -> (B,): about 1 for a real picture, larger is farther."""
    offsets = rows - mean
    return ((offsets @ inverse_covariance * offsets).sum(1).clamp_min(0) / rows.shape[1]).sqrt()


def background_colour(pictures: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """Index of the palette colour nearest to the median of the two-pixel border.

    pictures: (B, 3, H, W) in [-1, 1]; palette: (colours, 3) in 0..255 -> (B,) int64.
    """
    pixels = (pictures.clamp(-1, 1) + 1) * 127.5
    border = torch.cat(
        [part.flatten(2) for part in (pixels[..., :2, :], pixels[..., -2:, :], pixels[..., :2], pixels[..., -2:])], 2
    )
    return torch.cdist(border.median(dim=2).values, palette.to(pixels)).argmin(1)

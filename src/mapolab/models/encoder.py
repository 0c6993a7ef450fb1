"""The frozen encoders of a pipeline: images to latents, prompts to embeddings."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mapolab.errors import RunError, UserError
from mapolab.models.prompts import encode_prompts
from mapolab.models.sdxl import SDXL, TextEncoders

# Of the images that the VAE takes in one call. It is fastest there on a CPU (a fifth faster than at twice or half of
# it), and an image of SDXL's own size has more, which fills a GPU by itself.
PIXELS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Encoder:
    """VAE and text encoders, each computing in its own precision, without gradients; what they return is float32.

    text: None where the text encoders are trained themselves, and prompts are encoded in the step.
    """

    vae: AutoencoderKL
    text: TextEncoders | None

    @classmethod
    def load(cls, sdxl: SDXL, with_text: bool = True) -> "Encoder":
        """Raises UserError for a VAE that overflows in the precision it is to compute in."""
        return cls(finite_vae(sdxl.load_vae()), sdxl.load_text_encoders() if with_text else None)

    def to(self, device: torch.device) -> "Encoder":
        """Move the weights; returns self."""
        for model in (self.vae, *(self.text.models if self.text else ())):
            model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vae.device

    def values_per_image(self, resolution: int) -> int:
        """Numbers in the latents of an image of resolution^2 pixels."""
        channels, height, width = self.latent_shape(resolution)
        return channels * height * width

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of an image of resolution^2 pixels."""
        side = resolution // self._factor
        return self.vae.config.latent_channels, side, side

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def values_per_prompt(self) -> int:
        """Numbers in the embeddings of a prompt, the pooled one included."""
        tokens = self.text.tokenizers[0].model_max_length
        widths = [model.config.hidden_size for model in self.text.models]
        return tokens * sum(widths) + self.text.models[1].config.projection_dim

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of (N, 3, R, R) images: two (N, C, R/f, R/f), scaled for the UNet.

        A latent is `mean`, or `mean + std * noise` for a sample of the posterior. Raises UserError for a VAE that
        overflows in half precision.
        """
        shift, scale = self._normalisation(pixel_values.device)
        at_once = max(1, PIXELS_AT_ONCE // (pixel_values.shape[2] * pixel_values.shape[3]))
        with torch.autocast(pixel_values.device.type, enabled=False):
            parts = [self.vae.encode(part.to(self.vae.dtype)).latent_dist for part in pixel_values.split(at_once)]
        means, stds = (torch.cat([getattr(part, name).float() for part in parts]) for name in ("mean", "std"))
        if self.vae.dtype != torch.float32:
            check_finite(means, self.vae.dtype)
        return (means - shift) * scale, stds * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """The pictures of (N, C, R/f, R/f) latents as the pipeline has them: (N, R, R, 3) uint8 on the CPU.

        Raises RunError where the VAE makes no finite numbers of them.
        """
        shift, scale = self._normalisation(latents.device)
        at_once = max(1, PIXELS_AT_ONCE // (latents.shape[2] * latents.shape[3] * self._factor**2))
        with torch.autocast(latents.device.type, enabled=False):
            inputs = (latents / scale + shift).to(self.vae.dtype)
            pixels = torch.cat([self.vae.decode(part).sample.float() for part in inputs.split(at_once)])
        if not torch.isfinite(pixels).all():
            raise RunError(
                "The model draws pictures that are not finite: its weights are broken, or it or its VAE overflows in "
                "half precision. Lower optimizer.lr, or set model.vae_dtype=float32 or a higher trainer.precision."
            )
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu()

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """prompt_embeds (B, L, D) and pooled_prompt_embeds (B, P)."""
        with torch.autocast(self.device.type, enabled=False):
            embeds, pooled = encode_prompts(self.text, prompts)
        return embeds.float(), pooled.float()

    def _normalisation(self, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
        """(shift, scale) of the latents, the reverse of what the pipeline does before it decodes."""
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return 0.0, config.scaling_factor
        mean, std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, config.scaling_factor / std


@torch.no_grad()
def finite_vae(vae: AutoencoderKL) -> AutoencoderKL:
    """The VAE itself, once a picture of noise has gone through it. Raises UserError if its latents are not finite."""
    if vae.dtype == torch.float32:
        return vae
    side = 8 * 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    check_finite(vae.encode(pixels.to(vae.dtype)).latent_dist.mean, vae.dtype)
    return vae


def check_finite(latents: Tensor, dtype: torch.dtype) -> None:
    """Raise UserError unless the latents that a VAE computed in `dtype` are finite."""
    if not torch.isfinite(latents).all():
        raise UserError(
            f"The VAE's latents are not finite in {str(dtype).removeprefix('torch.')}: it overflows there, as "
            "SDXL's own does. Set model.vae_dtype=float32, or give a VAE made for half precision, such as "
            "model.vae=madebyollin/sdxl-vae-fp16-fix."
        )

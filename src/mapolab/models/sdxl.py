"""Loading the parts of a Stable Diffusion XL pipeline, one by one.

Training needs the UNet and the scheduler always, VAE and text encoders only while something is left to encode; so there
is no function that loads a whole pipeline.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mapolab.diffusion.samplers import Sampler, build_sampler
from mapolab.files import short_hash
from mapolab.models.architecture import check_architecture, check_vae
from mapolab.models.noise_process import noise_process, scheduler_settings
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.precision import DTYPES
from mapolab.models.single_file import SingleFile

TEXT_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class TextEncoders:
    """SDXL's two CLIP text encoders, each with its tokenizer."""

    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    models: tuple[CLIPTextModel, CLIPTextModelWithProjection]


@dataclass(frozen=True)
class SDXL:
    """A pipeline in diffusers' layout, or a single file. Nothing is fetched or loaded before it is asked for.

    The fields are the keys of conf/model that concern loading; prediction_type and zero_terminal_snr those of
    conf/diffusion. All methods raise UserError if a part is missing, cannot be fetched, or is of another model.
    """

    pretrained: str
    revision: str | None = None
    variant: str | None = None
    single_file_config: str = "stabilityai/stable-diffusion-xl-base-1.0"
    vae: str | None = None
    vae_revision: str | None = None
    vae_dtype: str = "float32"
    encoder_dtype: str = "float32"
    prediction_type: str = "auto"
    zero_terminal_snr: Any = "auto"

    @classmethod
    def from_config(cls, model: dict[str, Any], diffusion: dict[str, Any] | None = None) -> "SDXL":
        """From the blocks `model` and `diffusion` of a config; raises UserError if it names something else.

        Keys that a config of an older run lacks have their defaults.
        """
        given = {**model, **(diffusion or {})}
        sdxl = cls(**{key: given[key] for key in cls.__dataclass_fields__ if key in given})
        sdxl.check()
        return sdxl

    def check(self) -> None:
        """Raise UserError unless this is an SDXL whose parts fit each other and the settings. Reads configs only."""
        check_architecture(self.pretrained, self.parts)
        check_vae(self.vae or self.pretrained, self._vae_folder.config(self._vae_part), self.parts.config("unet"))
        self.scheduler_config()

    def load_unet(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """The UNet in `dtype`, whatever the precision on disk."""
        return self.parts.streamed(UNet2DConditionModel, "unet", dtype)

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's config, completed, with what the settings decide."""
        index, config = self.parts.index(), self.parts.config("scheduler")
        return scheduler_settings(self.pretrained, index, config, self.prediction_type, self.zero_terminal_snr)

    def load_scheduler(self) -> DDPMScheduler:
        """The forward process (betas, number of timesteps, prediction type)."""
        return DDPMScheduler(**noise_process(self.scheduler_config()))

    def load_sampler(self, name: str = "euler") -> Sampler:
        """The scheduler that draws; `euler` is SDXL's own."""
        return build_sampler(name, self.scheduler_config())

    def sampler_config(self, name: str) -> dict[str, Any]:
        """All that decides how `load_sampler(name)` draws, as plain values."""
        sampler = self.load_sampler(name)
        settings = {key: value for key, value in sampler.config.items() if not key.startswith("_")}
        return {"_class_name": type(sampler).__name__, **settings}

    def load_vae(self) -> AutoencoderKL:
        """The VAE in `vae_dtype`, frozen."""
        return _frozen(self._vae_folder.weights(AutoencoderKL, self._vae_part, self.dtype_of_vae))

    def load_text_encoders(self) -> TextEncoders:
        """Both text encoders in `encoder_dtype`, frozen, and their tokenizers."""
        dtype = DTYPES[self.encoder_dtype]
        first = self.parts.weights(CLIPTextModel, "text_encoder", dtype)
        second = self.parts.weights(CLIPTextModelWithProjection, "text_encoder_2", dtype)
        return TextEncoders(self.load_tokenizers(), (_frozen(first), _frozen(second)))

    def load_tokenizers(self) -> tuple[CLIPTokenizer, CLIPTokenizer]:
        return self.parts.part(CLIPTokenizer, "tokenizer"), self.parts.part(CLIPTokenizer, "tokenizer_2")

    @property
    def empty_prompt_is_zero(self) -> bool:
        """Whether the pipeline takes zeros for the embeddings of no prompt, as SDXL base does."""
        return bool(self.parts.index().get("force_zeros_for_empty_prompt", True))

    @property
    def pixels_per_latent(self) -> int:
        """Of a side: how many pixels the VAE makes of one latent."""
        return 2 ** (len(self._vae_folder.config(self._vae_part)["block_out_channels"]) - 1)

    @cached_property
    def encoder_identity(self) -> str:
        """Names the weights of VAE and text encoders and their precision, so that what they encoded is found again."""
        identities = [self._vae_folder.identity(self._vae_part), *(self.parts.identity(part) for part in TEXT_PARTS)]
        dtypes = [str(self.dtype_of_vae), self.encoder_dtype]
        halves = dtypes if dtypes != ["torch.float32", "float32"] else []
        return short_hash([*identities, *halves])

    @cached_property
    def parts(self) -> PipelineFolder | SingleFile:
        """Where the parts are read from."""
        if not self.pretrained.endswith(".safetensors"):
            return PipelineFolder(self.pretrained, self.revision, self.variant)
        lender = PipelineFolder(self.single_file_config, self.revision, key="model.single_file_config")
        return SingleFile(self.pretrained, lender)

    @cached_property
    def dtype_of_vae(self) -> torch.dtype:
        """`vae_dtype`; `auto` is half precision only for a VAE whose config says that it does not overflow there."""
        if self.vae_dtype != "auto":
            return DTYPES[self.vae_dtype]
        safe = self._vae_folder.config(self._vae_part).get("force_upcast", True) is False
        return DTYPES[self.encoder_dtype] if safe else torch.float32

    @property
    def _vae_folder(self) -> PipelineFolder | SingleFile:
        return PipelineFolder(self.vae, self.vae_revision, key="model.vae") if self.vae else self.parts

    @property
    def _vae_part(self) -> str:
        return "" if self.vae else "vae"


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)

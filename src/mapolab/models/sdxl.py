"""Loading the parts of a Stable Diffusion XL pipeline, one by one.

Training needs the UNet and the scheduler always, VAE and text encoders only while something is left to encode; so there
is no function that loads a whole pipeline.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mapolab.files import short_hash
from mapolab.models.architecture import check_architecture, scheduler_settings
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
        self.scheduler_config()

    def load_unet(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """The UNet in `dtype`, whatever the precision on disk."""
        return self.parts.streamed(UNet2DConditionModel, "unet", dtype)

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's config with what the settings decide."""
        return scheduler_settings(self.parts.config("scheduler"), self.prediction_type, self.zero_terminal_snr)

    def load_scheduler(self) -> DDPMScheduler:
        """The forward process (betas, number of timesteps, prediction type)."""
        return DDPMScheduler.from_config(self.scheduler_config())

    def load_sampler(self) -> EulerDiscreteScheduler:
        """SDXL's sampler, for generation. With a zero terminal SNR it starts at the last timestep, as it must."""
        config = self.scheduler_config()
        trailing = {"timestep_spacing": "trailing"} if config.get("rescale_betas_zero_snr") else {}
        return EulerDiscreteScheduler.from_config(config | trailing)

    def load_vae(self) -> AutoencoderKL:
        """The VAE in `vae_dtype`, frozen."""
        return _frozen(self._vae_folder.weights(AutoencoderKL, self._vae_part, self.dtype_of_vae))

    def load_text_encoders(self) -> TextEncoders:
        """Both text encoders in `encoder_dtype`, frozen, and their tokenizers."""
        dtype = DTYPES[self.encoder_dtype]
        first = self.parts.weights(CLIPTextModel, "text_encoder", dtype)
        second = self.parts.weights(CLIPTextModelWithProjection, "text_encoder_2", dtype)
        return TextEncoders(self.load_tokenizers(), (_frozen(first), _frozen(second)))

    def empty_models(self) -> dict[str, nn.Module]:
        """The UNet and the text encoders by part, on the meta device: names and shapes alone."""
        first, second = (self.parts.config(part) for part in ("text_encoder", "text_encoder_2"))
        text = empty_text_encoders(first, second)
        return {"unet": empty_unet(self.parts.config("unet")), "text_encoder": text[0], "text_encoder_2": text[1]}

    def load_tokenizers(self) -> tuple[CLIPTokenizer, CLIPTokenizer]:
        return self.parts.part(CLIPTokenizer, "tokenizer"), self.parts.part(CLIPTokenizer, "tokenizer_2")

    @property
    def empty_prompt_is_zero(self) -> bool:
        """Whether the pipeline takes zeros for the embeddings of no prompt, as SDXL base does."""
        return bool(self.parts.index().get("force_zeros_for_empty_prompt", True))

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


def empty_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """On the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def empty_text_encoders(
    first: dict[str, Any], second: dict[str, Any]
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """On the meta device, from their configs."""
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**first)), CLIPTextModelWithProjection(CLIPTextConfig(**second))


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)

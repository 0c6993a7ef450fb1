"""Loading the parts of a Stable Diffusion XL pipeline, one by one.

Training needs the UNet and the scheduler always, VAE and text encoders only while something is left to encode; so there
is no function that loads a whole pipeline.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mapolab.diffusion.samplers import Sampler, build_sampler
from mapolab.errors import UserError
from mapolab.files import short_hash
from mapolab.models.architecture import check_architecture, check_vae
from mapolab.models.noise_process import noise_process, scheduler_settings
from mapolab.models.parts import MODELS, build, read_config
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
        if self.variant and isinstance(self.parts, SingleFile):
            raise UserError(
                f"variant={self.variant} names files in a folder, but {self.pretrained} is one file. Leave it out."
            )
        check_architecture(self.pretrained, self.parts)
        check_vae(self.vae or self.pretrained, self._vae_folder.config(self._vae_part), self.parts.config("unet"))
        self.scheduler_config()

    def check_parts(self, unet: bool = True) -> None:
        """Raise UserError unless every part can be loaded, whole. Reads the weights the first time only.

        unet: False where another one takes its place.
        """
        for part, kind in MODELS.items():
            if part == "vae":
                self._vae_folder.check(kind, self._vae_part)
            elif unet or part != "unet":
                self.parts.check(kind, part)
        self._check_tokenizers()

    def _check_tokenizers(self) -> None:
        lengths = []
        for tokenizer, encoder in zip(self.load_tokenizers(), ("text_encoder", "text_encoder_2"), strict=True):
            config = read_config(CLIPTextConfig, self.parts.config(encoder))
            length, ids = tokenizer.model_max_length, set(tokenizer.get_vocab().values())
            if type(length) is not int or not 2 < length <= config.max_position_embeddings:
                raise UserError(
                    f"A tokenizer of {self.pretrained} makes prompts of {length} tokens, but its {encoder} takes 3 to "
                    f"{config.max_position_embeddings}. Check model_max_length in its tokenizer_config.json."
                )
            if ids != set(range(config.vocab_size)):
                raise UserError(
                    f"A tokenizer of {self.pretrained} has {len(ids)} tokens, but its {encoder} has embeddings of "
                    f"{config.vocab_size}. Check that its files are whole, and of this model."
                )
            lengths.append(length)
        if lengths[0] != lengths[1]:
            raise UserError(
                f"The tokenizers of {self.pretrained} make prompts of {lengths[0]} and of {lengths[1]} tokens, which "
                "SDXL puts side by side. Correct model_max_length in their tokenizer_config.json."
            )

    def load_unet(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """The UNet in `dtype`, whatever the precision on disk."""
        return self.parts.load(UNet2DConditionModel, "unet", dtype)

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
        return _frozen(self._vae_folder.load(AutoencoderKL, self._vae_part, self.dtype_of_vae))

    def load_text_encoders(self) -> TextEncoders:
        """Both text encoders in `encoder_dtype`, frozen, and their tokenizers."""
        dtype = DTYPES[self.encoder_dtype]
        first = self.parts.load(CLIPTextModel, "text_encoder", dtype)
        second = self.parts.load(CLIPTextModelWithProjection, "text_encoder_2", dtype)
        return TextEncoders(self.load_tokenizers(), (_frozen(first), _frozen(second)))

    def empty_models(self) -> dict[str, nn.Module]:
        """The UNet and the text encoders by part, on the meta device: names and shapes alone."""
        first, second = (self.parts.config(part) for part in ("text_encoder", "text_encoder_2"))
        text = empty_text_encoders(first, second)
        return {"unet": empty_unet(self.parts.config("unet")), "text_encoder": text[0], "text_encoder_2": text[1]}

    def load_tokenizers(self) -> tuple[CLIPTokenizer, CLIPTokenizer]:
        return self.parts.tokenizer("tokenizer"), self.parts.tokenizer("tokenizer_2")

    @property
    def empty_prompt_is_zero(self) -> bool:
        """Whether the pipeline takes zeros for the embeddings of no prompt, as SDXL base does."""
        return bool(self.parts.index().get("force_zeros_for_empty_prompt", True))

    def identity_of(self, part: str) -> list[str]:
        """All that is read of a part: `name:sha256` of each file, or a hash of what a single file has of it."""
        return self._vae_folder.identity(self._vae_part) if part == "vae" else self.parts.identity(part)

    def identity(self, unet: bool = True) -> dict[str, Any]:
        """All that is read of the model but the scheduler, by part. unet: False where another one takes its place."""
        files = {part: self.identity_of(part) for part in ("unet", "vae", *TEXT_PARTS) if unet or part != "unet"}
        return files | {"empty_prompt_is_zero": self.empty_prompt_is_zero}

    def files(self, unet: bool = True) -> dict[str, str]:
        """A hash of all that is read of each part, the scheduler among them, for a run's manifest."""
        read = self.identity(unet) | {"scheduler": self.parts.config("scheduler")}
        return {part: short_hash(content) for part, content in read.items()}

    @property
    def pixels_per_latent(self) -> int:
        """Of a side: how many pixels the VAE makes of one latent."""
        return 2 ** (len(self._vae_folder.config(self._vae_part)["block_out_channels"]) - 1)

    @cached_property
    def encoder_identity(self) -> str:
        """Names the weights of VAE and text encoders and their precision, so that what they encoded is found again."""
        identities = [self.identity_of(part) for part in ("vae", *TEXT_PARTS)]
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
    """On the meta device. Raises UserError for a config of no UNet."""
    return build(UNet2DConditionModel, config, "unet")


def empty_text_encoders(
    first: dict[str, Any], second: dict[str, Any]
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """On the meta device, from their configs. Raises UserError for those of none."""
    return build(CLIPTextModel, first, "text_encoder"), build(CLIPTextModelWithProjection, second, "text_encoder_2")


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)

"""The models of a config as fake ones: from their configs, or from SDXL's own where those cannot be reached."""

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from mapolab.errors import UserError
from mapolab.models.learned_token import LearnedRow, learned_token
from mapolab.models.lora import add_adapters, text_adapters, unet_adapter
from mapolab.models.parts import build
from mapolab.models.pipeline_folder import PipelineFolder
from mapolab.models.precision import DTYPES
from mapolab.models.sdxl import SDXL, empty_text_encoders, empty_unet

BASE = "stabilityai/stable-diffusion-xl-base-1.0"  # whose configs ship with the package
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
NAMED = ("pretrained", "revision", "variant", "single_file_config")


@dataclass(frozen=True)
class Architecture:
    """Configs by part. assumed: they are SDXL's, as its own could not be read. timesteps: how many it has."""

    configs: dict[str, dict[str, Any]]
    assumed: bool
    timesteps: int = 1000


def read_architecture(model: dict[str, Any], diffusion: dict[str, Any] | None = None) -> Architecture:
    """The configs of what `model.pretrained` names.

    Raises UserError for a local model that is no SDXL, or not one that can be trained with the block `diffusion`.
    """
    named = {"pretrained": "builtin:sdxl"} if model["pretrained"] == BASE else {key: model[key] for key in NAMED}
    process = {key: diffusion[key] for key in ("prediction_type", "zero_terminal_snr") if key in (diffusion or {})}
    sdxl = SDXL(**named, **process)
    try:
        configs = {part: sdxl.parts.config(part) for part in PARTS}
        sdxl.check()
        return Architecture(configs, False, sdxl.scheduler_config()["num_train_timesteps"])
    except UserError as error:
        if "could not be fetched" not in str(error):
            raise
        parts = PipelineFolder("builtin:sdxl")
        return Architecture({part: parts.config(part) for part in PARTS}, assumed=True)


def meta_trained(architecture: Architecture, model: dict[str, Any]) -> tuple[UNet2DConditionModel, list[nn.Module]]:
    """(UNet, text encoders) on the meta device, as a run trains them: with gradients where weights are trained."""
    unet, text = empty_unet(architecture.configs["unet"]), meta_text(architecture)
    if model["gradient_checkpointing"]:
        unet.enable_gradient_checkpointing()
    if model["lora"] is None:
        nn.Module.to(unet, DTYPES[model["trained_dtype"]])
    else:
        add_adapters(unet, unet_adapter(model["lora"]), 0, 0)
    if model["lora"] and model["lora"]["text_encoders"]:
        for encoder, config in zip(text, text_adapters(model["lora"], len(text[0].encoder.layers)), strict=True):
            add_adapters(encoder, config, 0, 0)
    if learned_token(model["lora"]):
        for encoder in text:
            table = encoder.get_input_embeddings()
            encoder.set_input_embeddings(LearnedRow(table, table.num_embeddings, 0))
    return unet.train(), text


def meta_text(architecture: Architecture) -> list[nn.Module]:
    """Both text encoders, frozen."""
    models = empty_text_encoders(*(architecture.configs[part] for part in ("text_encoder", "text_encoder_2")))
    return [model.requires_grad_(False).eval() for model in models]


def meta_vae(architecture: Architecture) -> AutoencoderKL:
    return build(AutoencoderKL, architecture.configs["vae"], "vae").requires_grad_(False)

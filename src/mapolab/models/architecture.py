"""What makes a pipeline an SDXL that can be trained here, told from its configs alone."""

from typing import Any, Protocol

from mapolab.errors import UserError
from mapolab.texts import brief

# What diffusers would load each part as, from model_index.json: library and class; the first is SDXL's. mapolab builds
# them itself, so that a file that names another library is none of SDXL; nothing is imported by such a name. A VAE may
# be given by itself, and `noise_process` reads the scheduler.
CLASSES = {
    "unet": [["diffusers", "UNet2DConditionModel"]],
    "vae": [["diffusers", "AutoencoderKL"]],
    "text_encoder": [["transformers", "CLIPTextModel"], ["transformers", "CLIPTextModelWithProjection"]],
    "text_encoder_2": [["transformers", "CLIPTextModelWithProjection"]],
    "tokenizer": [["transformers", "CLIPTokenizer"], ["transformers", "CLIPTokenizerFast"]],
    "tokenizer_2": [["transformers", "CLIPTokenizer"], ["transformers", "CLIPTokenizerFast"]],
    # Of image prompts, which nothing here has; some pipelines bring them along.
    "image_encoder": [[None, None], ["transformers", "CLIPVisionModelWithProjection"]],
    "feature_extractor": [[None, None], ["transformers", "CLIPImageProcessor"],
                          ["transformers", "CLIPFeatureExtractor"]],
}  # fmt: skip
SETTINGS = ("force_zeros_for_empty_prompt", "add_watermarker", "requires_aesthetics_score")


class Parts(Protocol):
    """Where configs are read from."""

    def index(self) -> dict[str, Any]:
        """The pipeline's model_index.json."""
        ...

    def config(self, part: str) -> dict[str, Any]:
        """The config of one part."""
        ...


def check_architecture(name: str, parts: Parts) -> None:
    """Raise UserError, naming what it is instead, unless `parts` is an SDXL base whose encoders fit its UNet."""
    _check_class(name, parts.index())
    unet = parts.config("unet")
    if unet.get("in_channels") != 4:
        raise UserError(
            f"The model {name} has a UNet with {unet.get('in_channels')} input channels (4 are latents; more "
            "are for inpainting or editing). Give a text-to-image SDXL."
        )
    if unet.get("out_channels", 4) != 4:
        raise UserError(
            f"The model {name} has a UNet with {unet['out_channels']} output channels: it predicts a variance, too, or "
            "something else. Give an SDXL whose UNet predicts the noise or the velocity alone."
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise UserError(
            f"The model {name} has a UNet that is told the guidance scale (time_cond_proj_dim), as one distilled to "
            "a few steps is (LCM). Give the model that it was distilled from."
        )
    first, second = (_number(name, parts, part, "hidden_size") for part in ("text_encoder", "text_encoder_2"))
    projection = _number(name, parts, "text_encoder_2", "projection_dim")
    attended = _number(name, parts, "unet", "cross_attention_dim")
    if unet.get("addition_embed_type") != "text_time" or attended != first + second:
        raise UserError(
            f"The model {name} does not fit together: its UNet attends to prompt embeddings of width {attended}, its "
            f"text encoders give {first} + {second}. Give a whole SDXL pipeline, with the text encoders that its UNet "
            "was trained with."
        )
    wanted = _number(name, parts, "unet", "projection_class_embeddings_input_dim")
    if wanted != (pooled := projection + 6 * _number(name, parts, "unet", "addition_time_embed_dim")):
        raise UserError(
            f"The model {name} does not fit together: its UNet wants "
            f"{wanted} numbers of pooled prompt and micro-conditioning, its "
            f"second text encoder and six time ids give {pooled}. Give a whole SDXL base pipeline (the refiner is "
            "none)."
        )


def _number(name: str, parts: Parts, part: str, key: str) -> int:
    value = parts.config(part).get(key)
    if type(value) is not int:
        raise UserError(
            f"The config of {part} of {name} has {key}={brief(value)}, where SDXL has a number. Fetch it again."
        )
    return value


def check_vae(name: str, vae: dict[str, Any], unet: dict[str, Any]) -> None:
    """Raise UserError unless a VAE's config says how its latents become the UNet's, as SDXL's pipeline does that.

    name: the model's, or the VAE's own.
    """
    channels, scale, shift = (vae.get(key) for key in ("latent_channels", "scaling_factor", "shift_factor"))
    statistics = [vae.get(key) for key in ("latents_mean", "latents_std")]
    if channels != unet.get("in_channels"):
        fault = f"has {brief(channels)} latent channels, the UNet {unet.get('in_channels')}"
    elif not _is_number(scale) or not scale > 0:
        told = brief(scale)
        fault = f"has scaling_factor {told} in its config (SDXL's has 0.13025; with none, Stable Diffusion 1's counts)"
    elif shift:
        fault = f"has shift_factor {brief(shift)}, which SDXL's pipeline does not apply"
    elif statistics != [None, None] and not all(_are_numbers(of, channels) for of in statistics):
        fault = f"has latents_mean and latents_std that are not both {channels} numbers"
    elif statistics[1] and not all(one > 0 for one in statistics[1]):
        fault = "has a latents_std that is not above 0"
    elif type(vae.get("force_upcast", True)) is not bool:
        fault = f"has force_upcast {brief(vae['force_upcast'])}, which is true or false"
    else:
        return
    raise UserError(f"The VAE of {name} {fault}. Give SDXL's VAE, or one made for it, or correct its config.json.")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(_is_number, values))


def _check_class(name: str, index: dict[str, Any]) -> None:
    kind = index.get("_class_name", "")
    if not str(kind).startswith("StableDiffusionXL"):
        found = f"a {brief(kind)}" if kind else "no diffusers pipeline (it has no model_index.json)"
        raise UserError(f"The model {name} is {found}, but mapolab is for SDXL: StableDiffusionXLPipeline.")
    if index.get("requires_aesthetics_score") or index.get("text_encoder", [1]) in (None, [], [None, None]):
        raise UserError(
            f"The model {name} is the SDXL refiner, which has one text encoder and is no text-to-image model. "
            "Give an SDXL base."
        )
    parts = {key: value for key, value in index.items() if not key.startswith("_") and key not in SETTINGS}
    for part, listed in parts.items():
        if part in CLASSES and listed not in CLASSES[part]:
            raise UserError(
                f"The model_index.json of {name} has {part}: {brief(listed)}, but SDXL's is a {CLASSES[part][0][1]} of "
                f"{CLASSES[part][0][0]}. Give an SDXL base."
            )
        if part == "scheduler" and not _is_scheduler(listed):
            raise UserError(
                f"The model_index.json of {name} has scheduler: {brief(listed)}, but SDXL's is of diffusers, such as "
                "EulerDiscreteScheduler. Give an SDXL base."
            )
        if part not in CLASSES and part != "scheduler" and listed not in (None, [None, None]):
            raise UserError(
                f"The model_index.json of {name} has a part {brief(part)}: {brief(listed)}, which an SDXL base does "
                "not have. Give an SDXL base, or remove the part from that file."
            )
    if not isinstance(index.get("force_zeros_for_empty_prompt", True), bool):
        raise UserError(
            f"The model_index.json of {name} has force_zeros_for_empty_prompt="
            f"{brief(index['force_zeros_for_empty_prompt'])}. Make it true or false."
        )


def _is_scheduler(listed: Any) -> bool:
    return isinstance(listed, list) and len(listed) == 2 and listed[0] == "diffusers" and isinstance(listed[1], str)

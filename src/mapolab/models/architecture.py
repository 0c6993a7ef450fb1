"""What makes a pipeline an SDXL that can be trained here, told from its configs alone."""

from typing import Any, Protocol

from mapolab.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction")
# What diffusers would load each part as, from model_index.json; the first is SDXL's. A VAE may be given by itself.
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}


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
        raise UserError(f"The config of {part} of {name} has {key}={value}, where SDXL has a number. Fetch it again.")
    return value


def scheduler_settings(config: dict[str, Any], prediction_type: str, zero_terminal_snr: Any) -> dict[str, Any]:
    """The scheduler's config with the settings of conf/diffusion. Raises UserError where the two contradict."""
    stated = config.get("prediction_type") or ("epsilon" if prediction_type == "auto" else prediction_type)
    if prediction_type not in ("auto", stated):
        raise UserError(
            f"diffusion.prediction_type={prediction_type}, but the model's scheduler says {stated}: its UNet was "
            "trained to predict that. Set diffusion.prediction_type=auto, or correct the model's scheduler_config.json."
        )
    if stated not in PREDICTION_TYPES:
        raise UserError(
            f"The model's scheduler says prediction_type={stated!r}; mapolab trains models that predict the noise "
            "(epsilon) or the velocity (v_prediction). Choose another model, or correct scheduler_config.json."
        )
    zero = bool(config.get("rescale_betas_zero_snr")) if zero_terminal_snr == "auto" else zero_terminal_snr
    if zero and stated == "epsilon":
        raise UserError(
            "A zero terminal SNR needs a model that predicts the velocity: at the last timestep there is only noise, "
            "which a model that predicts noise could copy. Set diffusion.zero_terminal_snr=false."
        )
    return config | {"prediction_type": stated, "rescale_betas_zero_snr": zero}


def _check_class(name: str, index: dict[str, Any]) -> None:
    kind = index.get("_class_name", "")
    if not str(kind).startswith("StableDiffusionXL"):
        found = f"a {kind}" if kind else "no diffusers pipeline (it has no model_index.json)"
        raise UserError(f"The model {name} is {found}, but mapolab is for SDXL: StableDiffusionXLPipeline.")
    if index.get("requires_aesthetics_score") or index.get("text_encoder", [1]) in (None, [], [None, None]):
        raise UserError(
            f"The model {name} is the SDXL refiner, which has one text encoder and is no text-to-image model. "
            "Give an SDXL base."
        )
    for part, classes in CLASSES.items():
        listed = index.get(part, [None, classes[0]])
        if not isinstance(listed, list) or len(listed) != 2 or listed[1] not in classes:
            raise UserError(
                f"The model_index.json of {name} has {part}: {listed}, but SDXL's is a {classes[0]}. Give an SDXL base."
            )
    if not isinstance(index.get("force_zeros_for_empty_prompt", True), bool):
        raise UserError(
            f"The model_index.json of {name} has force_zeros_for_empty_prompt="
            f"{index['force_zeros_for_empty_prompt']!r}. Make it true or false."
        )

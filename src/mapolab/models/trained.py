"""What a run trains: the UNet, or adapters in it and perhaps in the text encoders,
beside them perhaps a learned token; and how diffusers calls it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from mapolab.models.learned_token import learn_token, learned_rows, learned_token
from mapolab.models.lora import add_adapters, file_metadata, text_adapters, unet_adapter
from mapolab.models.precision import DTYPES
from mapolab.models.reference import FrozenCopy, LoraOff, MovingCopy, Reference
from mapolab.models.sdxl import SDXL, TextEncoders

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass
class TrainedModel:
    """unet: with its adapters, if it has some. text: the text encoders, only where something of them is trained.

    lora: the adapters' configs by model (`unet`, `text_encoder`, `text_encoder_2`), or None.
    text_learning_rate: of the text encoders' adapters; None: the optimizer's. token: the learned token and the word
    that it started from, by `token` and `initial`, or None. token_learning_rate: None: that of the text encoders.
    """

    unet: UNet2DConditionModel
    text: TextEncoders | None = None
    lora: "dict[str, LoraConfig] | None" = None
    text_learning_rate: float | None = None
    token: dict[str, str] | None = None
    token_learning_rate: float | None = None
    has_dropout: bool = field(init=False)

    def __post_init__(self) -> None:
        self.has_dropout = any(config.lora_dropout for config in (self.lora or {}).values())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The trained parameters as an optimizer takes them."""
        text = self.text.models if self.text is not None else ()
        rows = list(learned_rows(text))
        adapters = [item for model in text for item in _trained(model) if not any(item is row for row in rows)]
        token_rate = self.text_learning_rate if self.token_learning_rate is None else self.token_learning_rate
        rates = (_trained(self.unet), None), (adapters, self.text_learning_rate), (rows, token_rate)
        return [{"params": items} | ({} if rate is None else {"lr": rate}) for items, rate in rates if items]

    def about(self, names: list[str]) -> dict[str, Any]:
        """What `models.saved` must know; names: of the trained tensors."""
        if self.lora is None:
            return {"unet_config": unet_config(self.unet)}
        return {"lora_metadata": file_metadata(self.lora), "names": names, "token": self.token}


def load_trained(sdxl: SDXL, model: dict[str, Any], seed: int, double: bool = False) -> TrainedModel:
    """Load what the block `model` of a config trains. Raises UserError for targets that match no layer.

    double: all in float64. (Lightning would convert it too, but after a checkpoint was read into float32.)
    """
    lora = model["lora"]
    unet = sdxl.load_unet(torch.float64 if double else DTYPES[model["frozen_dtype" if lora else "trained_dtype"]])
    if model["channels_last"]:
        unet = unet.to(memory_format=torch.channels_last)
    if model["gradient_checkpointing"]:
        unet.enable_gradient_checkpointing()
    if lora is None:
        return TrainedModel(unet.requires_grad_(True))
    configs = {"unet": unet_adapter(lora)}
    add_adapters(unet, configs["unet"], seed, 0)
    if not trains_text(lora):
        return TrainedModel(unet, lora=configs)
    text = sdxl.load_text_encoders()
    if double:
        for encoder in text.models:
            encoder.double()
    if lora["text_encoders"]:
        configs |= _add_text_adapters(text, lora, seed)
    rates = {"text_learning_rate": lora["text_encoder_learning_rate"]}
    if token := learned_token(lora):
        for tokenizer, encoder in zip(text.tokenizers, text.models, strict=True):
            learn_token(tokenizer, encoder, token, lora["token_initial"])
        about = {"token": token, "initial": lora["token_initial"]}
        rates |= {"token": about, "token_learning_rate": lora["token_learning_rate"]}
    return TrainedModel(unet, text, configs, **rates)


def trains_text(lora: dict[str, Any] | None) -> bool:
    """Whether the block `model.lora` trains anything of the text encoders, so that prompts are encoded in the step."""
    return bool(lora and (lora["text_encoders"] or learned_token(lora)))


def _add_text_adapters(text: TextEncoders, lora: dict[str, Any], seed: int) -> "dict[str, LoraConfig]":
    adapters = text_adapters(lora, text.models[0].config.num_hidden_layers)
    names = "text_encoder", "text_encoder_2"
    for number, (encoder, config) in enumerate(zip(text.models, adapters, strict=True)):
        add_adapters(encoder, config, seed, number + 1)
    return dict(zip(names, adapters, strict=True))


def build_reference(kind: str, unet: UNet2DConditionModel, dtype: torch.dtype, model: dict[str, Any]) -> Reference:
    """The reference of this kind for a UNet that was just loaded. model: the block of the config."""
    if kind == "ema":
        return MovingCopy(unet, decay=model["reference_ema_decay"])
    if kind == "refreshed":
        return MovingCopy(unet, refresh_every=model["reference_refresh_every"])
    if kind == "lora_off":
        return LoraOff(unet)
    return FrozenCopy(unet, dtype, offloaded=kind == "offloaded_copy")


def choose_reference(kind: str, has_lora: bool) -> str:
    """The kind that `model.reference` means: `auto` costs nothing where it can, else keeps a copy."""
    if kind != "auto":
        return kind
    return "lora_off" if has_lora else "frozen_copy"


def unet_config(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The content of diffusers' `config.json` for this UNet."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return {"_class_name": type(unet).__name__, "_diffusers_version": diffusers.__version__, **config}


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]

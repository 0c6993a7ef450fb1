"""Low-rank adapters (PEFT) in the UNet and, if wanted, in the text encoders: adding, switching off, naming.

Names. In a model an adapter's tensor is `<layer>.lora_A.default.weight`; in diffusers' LoRA files it is
`unet.<layer>.lora_A.weight`, and the first text encoder's layers begin with `text_model.` whatever transformers calls
them.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.models.learned_token import LearnedRow
from mapolab.streams import Stream, torch_seed

if TYPE_CHECKING:  # imported where it is used: it takes a second, and most runs have no adapters
    from peft import LoraConfig

ADAPTER = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"


def unet_adapter(lora: dict[str, Any]) -> "LoraConfig":
    """PEFT's config of the UNet's adapters from the block `model.lora`."""
    return _adapter(lora, lora["target_modules"])


def text_adapters(lora: dict[str, Any], layers: int) -> "tuple[LoraConfig, LoraConfig]":
    """Those of the two text encoders. The first one's last layer has none: its output is never used."""
    targets = lora["text_encoder_target_modules"]
    endings = "|".join(name.replace(".", r"\.") for name in targets)
    used = rf".*\.layers\.({'|'.join(str(layer) for layer in range(layers - 1))})\..*({endings})"
    return _adapter(lora, used), _adapter(lora, targets)


def _adapter(lora: dict[str, Any], targets: list[str] | str) -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        use_dora=lora["dora"],
        target_modules=targets if isinstance(targets, str) else list(targets),
        init_lora_weights=True,
    )


def check_targets(lora: dict[str, Any], unet_config: dict[str, Any]) -> None:
    """Raise UserError unless every target names layers of the UNet that can have an adapter. Builds no weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for target in lora["target_modules"]:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = sorted({name.split(".")[-1] for name in layers if not name.split(".")[-1].isdigit()} | {"to_out.0"})
            raise UserError(
                f"model.lora.target_modules: {target} matches no layer of the UNet. Its layers end in "
                f"{', '.join(ends)}."
            )


def add_adapters(model: nn.Module, config: "LoraConfig", seed: int, number: int) -> None:
    """Freeze the model and add adapters that change nothing yet: float32 or better, drawn from (seed, number).

    Raises UserError where no layer matches the targets.
    """
    model.requires_grad_(False)
    with torch_seed(seed, Stream.LORA, number):
        try:
            model.add_adapter(config, adapter_name=ADAPTER)
        except ValueError as error:
            raise UserError(
                f"The LoRA's targets {config.target_modules} do not fit {type(model).__name__}: "
                f"{' '.join(str(error).split())} Correct model.lora."
            ) from None
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


@contextlib.contextmanager
def adapters_off(*models: nn.Module) -> Iterator[None]:
    """Within the block the models compute as if they had no adapters, and read a learned token as its initial word."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    kinds = BaseTunerLayer, LearnedRow
    layers = [module for model in models for module in model.modules() if isinstance(module, kinds)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def to_file_name(name: str) -> str:
    """A trained tensor's name in diffusers' LoRA files; name: with the model's own in front, as `unet.`."""
    name = name.replace(f".{ADAPTER}.weight", ".weight").removesuffix(f".{ADAPTER}")
    if ".lora_magnitude_vector" in name:
        name = name.removesuffix(".weight")
    if name.startswith("text_encoder.") and not name.startswith("text_encoder.text_model."):
        name = name.replace("text_encoder.", "text_encoder.text_model.", 1)
    return name


def file_metadata(configs: "dict[str, LoraConfig]") -> dict[str, str]:
    """The metadata of such a file: the adapters' settings of each model, as diffusers reads them."""
    settings = {
        f"{model}.{key}": sorted(value) if isinstance(value, set) else value
        for model, config in configs.items()
        for key, value in config.to_dict().items()
    }
    return {"format": "pt", "lora_adapter_metadata": json.dumps(settings, sort_keys=True)}


def kohya_tensors(
    weights: dict[str, Tensor], unet_names: dict[str, str], alphas: dict[str, float]
) -> dict[str, Tensor]:
    """A diffusers LoRA file's tensors in the kohya layout that ComfyUI and A1111 read.

    unet_names: the UNet's modules in the original layout. alphas: of each model's adapters. Raises UserError for DoRA.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if "lora_magnitude_vector" in name:
            raise UserError(
                "The kohya layout has no settled form for DoRA. Export formats=[lora] or formats=[pipeline]."
            )
        model, _, rest = name.partition(".")
        layer, _, kind = rest.rpartition(".lora_")
        if model == "unet":
            module = "lora_unet_" + unet_names[layer]
        else:
            inner = layer if layer.startswith("text_model.") else f"text_model.{layer}"
            module = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[model] + inner
        module = module.replace(".", "_")
        found[f"{module}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = tensor
        found[f"{module}.alpha"] = torch.tensor(alphas[model], dtype=tensor.dtype)
    return found

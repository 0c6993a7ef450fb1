"""Low-rank adapters (PEFT) in the UNet and, if wanted, in the text encoders: adding, switching off, naming.

Names. In a model an adapter's tensor is `<layer>.lora_A.default.weight`; in diffusers' LoRA files it is
`unet.<layer>.lora_A.weight`, and the first text encoder's layers begin with `text_model.` whatever transformers calls
them.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mapolab.errors import UserError
from mapolab.models.learned_token import LearnedRow
from mapolab.models.lora_names import INNER, KOHYA_TEXT, PARTS, Layer, adaptable, kohya_names
from mapolab.models.lora_reader import Adapter, Lora
from mapolab.models.sdxl import empty_unet
from mapolab.streams import Stream, torch_seed

if TYPE_CHECKING:  # imported where it is used: it takes a second, and most runs have no adapters
    from peft import LoraConfig

ADAPTER = "default"


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
    layers = list(adaptable(empty_unet(unet_config)))
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
    for name, parameter in model.named_parameters():
        if "lora_embedding_" in name:
            raise UserError(
                f"model.lora: the targets match {name.partition('.lora_')[0]}, a table of embeddings. Give linear "
                "layers, and learn a new word with model.lora.learned_token."
            )
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
    """A trained tensor's name in diffusers' LoRA files; name: with the model's own in front, as `unet.`.

    A name in such a file stays as it is, but for DoRA's in text encoders, which earlier versions wrote without
    `.weight`: transformers' loader does not find them so.
    """
    name = name.replace(f".{ADAPTER}.weight", ".weight").removesuffix(f".{ADAPTER}")
    if ".lora_magnitude_vector" in name:
        name = name.removesuffix(".weight") + (".weight" if name.startswith("text_encoder") else "")
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


def put_adapters(models: dict[str, nn.Module], lora: Lora) -> None:
    """Add all of a LoRA's file to models without adapters, in the device and precision of the layers they sit on.

    Raises UserError for numbers that this precision cannot hold.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for (part, name), tensor in lora.parameters.items():
        models[part].get_parameter(name).data.copy_(tensor)
    for part, model in models.items():
        adapters = {layer: adapter for (other, layer), adapter in lora.adapters.items() if other == part}
        if not adapters:
            continue
        config = LoraConfig(
            target_modules="|".join(re.escape(layer) for layer in adapters),
            rank_pattern={f"^{re.escape(layer)}": adapter.rank for layer, adapter in adapters.items()},
            use_dora=any(adapter.magnitude is not None for adapter in adapters.values()),
            lora_bias=any(adapter.bias is not None for adapter in adapters.values()),
        )
        inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=True)
        for layer, adapter in adapters.items():
            _fill(model.get_submodule(layer), adapter)
        if lost := [name for name, item in model.named_parameters() if item.is_meta]:
            raise RuntimeError(f"adapters without values: {lost[:3]}")


def _fill(layer: Any, adapter: Adapter) -> None:
    """Give a layer's adapter, which is on the meta device, its values and its scale."""
    weight = layer.get_base_layer().weight

    def own(tensor: Tensor) -> nn.Parameter:
        cast = tensor.to(weight.device, weight.dtype, copy=True)
        if not cast.isfinite().all():
            raise UserError(f"The LoRA's numbers overflow in {weight.dtype}. Draw with precision=float32.")
        return nn.Parameter(cast, requires_grad=False)

    layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight = own(adapter.down), own(adapter.up)
    if adapter.bias is not None:
        layer.lora_B[ADAPTER].bias = own(adapter.bias)
    if adapter.magnitude is not None:
        layer.lora_magnitude_vector[ADAPTER].weight = own(adapter.magnitude)
    layer.scaling[ADAPTER], layer.lora_alpha[ADAPTER] = adapter.scale, adapter.scale * adapter.rank


def kohya_fault(lora: Lora) -> str | None:
    """Why these adapters cannot be in the kohya layout, or None."""
    if any(adapter.magnitude is not None for adapter in lora.adapters.values()):
        return "it has no settled form for DoRA"
    nameless = [layer for part, layer in lora.adapters if part != "unet" and not KOHYA_TEXT.fullmatch(layer)]
    return f"it has no name for the text encoders' {nameless[0]}" if nameless else None


def kohya_tensors(lora: Lora, unet_config: dict[str, Any]) -> dict[str, Tensor]:
    """The kohya layout that ComfyUI and A1111 read; for adapters in which `kohya_fault` finds none.

    A text encoder's output projection that adds zeros is there where none was trained: see `zero_projections`.
    """
    adapters = lora.adapters | zero_projections(lora)
    names = kohya_names(adapters, unet_config)
    found: dict[str, Tensor] = {}
    for place, adapter in adapters.items():
        found[f"{names[place]}.lora_down.weight"] = adapter.down
        found[f"{names[place]}.lora_up.weight"] = adapter.up
        found[f"{names[place]}.alpha"] = torch.tensor(adapter.scale * adapter.rank)
    return found


def zero_projections(lora: Lora) -> dict[Layer, Adapter]:
    """An adapter that adds zeros, for an output projection of each text encoder that has adapters but none there.

    By that name diffusers' loader tells the layout of a text encoder's keys. Without it, it drops those of kohya's
    queries, keys and values beside others, or raises; of its own layout it needs any attention layer.
    """
    found = {}
    for part in PARTS[1:]:
        mine = {layer: adapter for (other, layer), adapter in lora.adapters.items() if other == part}
        if not mine or any(layer.endswith(".out_proj") for layer in mine):
            continue
        layer, adapter = next(iter(mine.items()))
        width = len(adapter.up) if layer.endswith(".fc2") else adapter.down.shape[1]
        down, up = adapter.down.new_zeros(adapter.rank, width), adapter.up.new_zeros(width, adapter.rank)
        found[part, f"{INNER}encoder.layers.0.self_attn.out_proj"] = Adapter(down, up, adapter.scale)
    return found

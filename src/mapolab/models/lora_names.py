"""The names by which LoRA files mean SDXL's layers.

| writer | of a UNet's layer | of a text encoder's |
|---|---|---|
| diffusers | `unet.<diffusers' name>` | `text_encoder.`, `text_encoder_2.` and transformers' name |
| earlier diffusers | `to_q_lora` of an attention's `processor` for `to_q` | `to_q_lora` for `q_proj` |
| PEFT | diffusers' name alone | transformers' name alone |
| kohya | `lora_unet_`, the original or diffusers' name, `_` for `.` | `lora_te1_`, `lora_te2_`, likewise |
| ComfyUI | `diffusion_model.<the original name>` | `text_encoders.clip_l.transformer.`, `clip_g` |

transformers puts `text_model.` before a layer's name in some versions and classes and not in others.
"""

import re
from collections.abc import Iterable, Iterator

from torch import nn

from mapolab.models.original_layout import unet_names

PARTS = ("unet", "text_encoder", "text_encoder_2")
INNER = "text_model."
# The prefixes of a text encoder's layers, with and without dots in the names that follow.
DOTTED = {
    "text_encoder": ("text_encoder.", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("text_encoder_2.", "text_encoders.clip_g.transformer."),
}
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
# What kohya's programs adapt in a text encoder, and what the UIs know by name.
KOHYA_TEXT = re.compile(r"(text_model\.)?encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")

Layer = tuple[str, str]

# The ends of an adapter's keys: `down` is PEFT's A, `up` its B.
_NAME = r"(?:\.(?P<name>(?!weight$|bias$)[^.]+))?"  # PEFT's name of the adapter, as `default`
KINDS = {
    "down": rf"\.lora_A{_NAME}(?:\.weight)?|(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)down\.weight",
    "up": rf"\.lora_B{_NAME}(?:\.weight)?|(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)up\.weight",
    "bias": rf"\.lora_B{_NAME}\.bias",
    "magnitude": rf"\.lora_magnitude_vector{_NAME}(?:\.weight)?",
    "alpha": r"\.alpha",
}
PATTERNS = {kind: re.compile(rf"(?P<stem>.+?)(?:{pattern})") for kind, pattern in KINDS.items()}
# Adapters of other kinds, by the ends of their keys.
OTHER_KINDS = {
    "LoHa": r"\.hada_\w+",
    "LoKr": r"\.lokr_\w+",
    "OFT": r"\.oft_\w+(\.weight)?",
    "LoCon with a Tucker decomposition": r"\.lora_mid\.weight",
    "DoRA in kohya's layout, whose norm each program takes in its own way": r"\.dora_scale",
    "adapters of token embeddings": r"\.lora_embedding_[AB].*",
    "changes of whole weights": r"\.(diff|diff_b|set_weight|w_norm|b_norm)",
    "LyCORIS": r"\.([ab][12]\.weight|on_input|scalar|reshape_weight)",
}
# The beginnings of keys of other models' LoRAs.
FAMILIES = {
    ("transformer.", "lora_transformer_", "lora_unet_double_blocks", "diffusion_model.double_blocks"): (
        "a diffusion transformer (Stable Diffusion 3, FLUX and the like)"
    ),
    ("lora_te_",): "Stable Diffusion 1 or 2",
}


def adaptable(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers of a model without adapters that can have one."""
    return {name: item for name, item in model.named_modules() if isinstance(item, nn.Linear | nn.Conv2d)}


def bare_names(part: str, model: nn.Module) -> dict[str, str]:
    """Names without a prefix, which do not say which model they are of, to the layer."""
    found = {}
    for layer in adaptable(model):
        found |= dict.fromkeys(_old_and_new(layer) if part == "unet" else _of_text(layer), layer)
    return found


def full_names(models: dict[str, nn.Module]) -> dict[str, Layer]:
    """Names with their prefix to (part, layer)."""
    found: dict[str, Layer] = {}
    for part, model in models.items():
        bare = bare_names(part, model)
        if part == "unet":
            original = unet_names(model.config, adaptable(model))
            found |= {f"unet.{name}": (part, layer) for name, layer in bare.items()}
            found |= {f"diffusion_model.{name}": (part, layer) for layer, name in original.items()}
            flat = bare | {name: layer for layer, name in original.items()}
        else:
            found |= {prefix + name: (part, layer) for prefix in DOTTED[part] for name, layer in bare.items()}
            flat = bare
        found |= {KOHYA[part] + name.replace(".", "_"): (part, layer) for name, layer in flat.items()}
    return found


def kohya_names(layers: Iterable[Layer], unet_config: dict) -> dict[Layer, str | None]:
    """The name of each (part, layer) in kohya's layout; None where it has none."""
    layers = list(layers)
    original = unet_names(unet_config, [layer for part, layer in layers if part == "unet"])
    found: dict[Layer, str | None] = {}
    for part, layer in layers:
        if part != "unet" and not KOHYA_TEXT.fullmatch(layer):
            found[part, layer] = None
            continue
        name = original[layer] if part == "unet" else INNER + layer.removeprefix(INNER)
        found[part, layer] = KOHYA[part] + name.replace(".", "_")
    return found


def both_names(name: str) -> tuple[str, str]:
    """A parameter's or layer's name with and without `text_model.`, of which a model has one."""
    return name, name.removeprefix(INNER) if name.startswith(INNER) else INNER + name


def _old_and_new(layer: str) -> Iterator[str]:
    for name in {layer, layer.replace("to_out.0", "to_out")}:
        yield name
        if ".to_" in name:
            yield name.replace(".to_", ".processor.to_")


def _of_text(layer: str) -> Iterator[str]:
    old = re.sub(r"self_attn\.(q|k|v|out)_proj$", r"self_attn.to_\1", layer)
    for name in {layer, old}:
        yield from both_names(name)


def adapter_key(key: str) -> tuple[str, str, str | None] | None:
    """(stem, kind, PEFT's name of the adapter) of an adapter's tensor; the stem is the layer's name with its prefix."""
    for kind, pattern in PATTERNS.items():
        if match := pattern.fullmatch(key):
            return match["stem"], kind, match.groupdict().get("name")
    return None


def adapter_shapes(layer: nn.Linear | nn.Conv2d, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's tensors, as PEFT has them."""
    if isinstance(layer, nn.Linear):
        out = layer.out_features
        return {"down": (rank, layer.in_features), "up": (out, rank), "bias": (out,), "magnitude": (out,)}
    out, down = layer.out_channels, (rank, layer.in_channels, *layer.kernel_size)
    return {"down": down, "up": (out, rank, 1, 1), "bias": (out,), "magnitude": (1, out, 1, 1)}


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without ones at the end: a linear layer is a 1x1 convolution."""
    kept = list(shape)
    while kept and kept[-1] == 1:
        kept.pop()
    return tuple(kept)

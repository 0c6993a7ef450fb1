"""SDXL's tensors in the original single-file layout, beside diffusers' names: written and read by one mapping.

The layout is that of Stability's generative-models: the UNet's blocks are counted through as `input_blocks`,
`middle_block` and `output_blocks`, the VAE's decoder from the output backwards, and the second text encoder is
open_clip's.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mapolab.models.weights import Place

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
UNET = PREFIXES["unet"]
# What checkpoints hold beside the four parts, and no pipeline reads: averages, the losses of the VAE's training, tables
# that follow from the noise schedule, counted positions, CLIP's temperature, the projection of the first text encoder.
# The empty tensors say how the model predicts, which `single_file` reads.
NEEDLESS = re.compile(
    r"model_ema\..*|first_stage_model\.(loss|model_ema)\..*|cond_stage_model\..*|embedding_manager\..*"
    r"|denoiser\.sigmas|(alphas_cumprod|sqrt_|log_one_minus_|posterior_)\w*|betas|logvar|lvlb_weights|scale_factor"
    r"|conditioner\.embedders\.[01]\.((transformer|model)\.)*(text_model\.embeddings\.position_ids|logit_scale)"
    r"|conditioner\.embedders\.0\.(transformer\.)?text_projection(\.weight)?"
    r"|v_pred|ztsnr|edm_\w+"
)

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_INNER = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def unet_names(config: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Each of the UNet's `names` (of tensors or modules, in diffusers' layout) to its original one, unprefixed."""
    blocks = UNET_ENDS | _down_blocks(config) | _up_blocks(config)
    return {name: _renamed_unet(name, blocks) for name in names}


def _down_blocks(config: dict[str, Any]) -> dict[str, str]:
    """`down_blocks.i...` to `input_blocks.n.k`: a resnet with its attention is one block, a downsampler another."""
    found, number = {}, 1
    for level, layers in enumerate(_layers(config, len(config["down_block_types"]))):
        for layer in range(layers):
            found[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            found[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < len(config["down_block_types"]) - 1:
            found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    return found


def _up_blocks(config: dict[str, Any]) -> dict[str, str]:
    """`up_blocks.i...` to `output_blocks.n.k`; an upsampler follows within the last block of its level."""
    found, number = {}, 0
    kinds = config["up_block_types"]
    for level, layers in enumerate(reversed(_layers(config, len(kinds)))):
        for layer in range(layers + 1):
            found[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            found[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if level < len(kinds) - 1:
            place = 2 if "CrossAttn" in kinds[level] else 1
            found[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    return found


def _layers(config: dict[str, Any], levels: int) -> list[int]:
    layers = config["layers_per_block"]
    return [layers] * levels if isinstance(layers, int) else list(layers)


def _renamed_unet(name: str, blocks: dict[str, str]) -> str:
    block = next(block for block in blocks if name == block or name.startswith(block + "."))
    rest = name.removeprefix(block)
    if ".resnets." in block:
        inner = rest[1:].split(".")[0]
        rest = rest.replace(f".{inner}", f".{RESNET[inner]}", 1)
    return blocks[block] + rest


@dataclass(frozen=True)
class Slot:
    """Where a tensor of the model is in the file.

    form: "linear" for a matrix that the file may have as a 1x1 convolution, and is written so; "turned" for one that it
    has transposed; third: which third of the file's tensor it is, None for all of it.
    """

    key: str
    form: str | None = None
    third: int | None = None


def slots(part: str, config: dict[str, Any], names: Iterable[str]) -> dict[str, Slot]:
    """The slot of each of a part's tensors, whose `names` are diffusers'. config: the part's."""
    if part == "unet":
        found = {name: Slot(key) for name, key in unet_names(config, names).items()}
    elif part == "vae":
        found = {name: _vae_slot(name, len(config["block_out_channels"])) for name in names}
    elif part == "text_encoder":  # transformers' names, in the layout with an inner `text_model`
        found = {name: Slot(f"text_model.{name.removeprefix('text_model.')}") for name in names}
    else:
        found = {name: _open_clip_slot(name.removeprefix("text_model.")) for name in names}
    return {name: Slot(PREFIXES[part] + slot.key, slot.form, slot.third) for name, slot in found.items()}


def to_original(weights: dict[str, Tensor], where: dict[str, Slot]) -> dict[str, Tensor]:
    """A part's tensors by their names in the file."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for name in sorted(weights, key=lambda name: where[name].third or 0):
        tensor, form = weights[name], where[name].form
        formed = tensor[:, :, None, None] if form == "linear" else tensor.T if form == "turned" else tensor
        found[where[name].key].append(formed)
    return {key: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for key, tensors in found.items()}


def original_place(where: dict[str, Slot]) -> Place:
    """The way back."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, slot in where.items():
        names[slot.key].append(name)

    def place(key: str, tensor: Tensor) -> list[tuple[str, Tensor]] | None:
        if key not in names:
            return [] if NEEDLESS.fullmatch(key) else None
        return [(name, _formed(tensor, where[name])) for name in names[key]]

    return place


def _formed(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.form == "linear":
        return tensor.flatten(1) if tensor.shape[2:] == (1, 1) else tensor
    if slot.third is not None:
        size = tensor.shape[0] // 3
        # All of what is no three thirds, so that its shape is refused.
        return tensor[slot.third * size : (slot.third + 1) * size] if tensor.shape[0] == 3 * size else tensor
    return tensor.T if slot.form == "turned" and tensor.ndim == 2 else tensor


def _vae_slot(name: str, levels: int) -> Slot:
    key = _renamed_vae(name, levels)
    is_matrix = ".mid.attn_1." in key and ".norm." not in key and key.endswith("weight")
    return Slot(key, "linear" if is_matrix else None)


def _renamed_vae(name: str, levels: int) -> str:
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", name)
    name = re.sub(
        r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.",
        lambda at: (
            f"decoder.up.{levels - 1 - int(at[1])}." + (f"block.{at[3]}." if at[2] == "resnets" else "upsample.")
        ),
        name,
    )
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda at: f"mid.block_{int(at[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    for ours, theirs in VAE_INNER.items():
        name = re.sub(rf"\.{re.escape(ours)}\.", f".{theirs}.", name)
    return name


def _open_clip_slot(name: str) -> Slot:
    """Queries, keys and values are one tensor there."""
    if layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, inner, kind = layer.groups()
        if inner in (attention := ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")):
            return Slot(f"transformer.resblocks.{number}.attn.in_proj_{kind}", third=attention.index(inner))
        return Slot(f"transformer.resblocks.{number}.{OPEN_CLIP[inner]}.{kind}")
    if name == "text_projection.weight":
        return Slot("text_projection", "turned")
    return Slot(OPEN_CLIP_ENDS[name])

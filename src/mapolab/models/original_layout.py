"""The names of SDXL's tensors in the original single-file layout, beside diffusers' names.

The layout is that of Stability's generative-models: the UNet's blocks are counted through as `input_blocks`,
`middle_block` and `output_blocks`, the VAE's decoder from the output backwards, and the second text encoder is
open_clip's.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_1, TEXT_2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

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


def vae_tensors(weights: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A VAE's weights under their original names; its attention's matrices become 1x1 convolutions."""
    found = {}
    for name, tensor in weights.items():
        renamed = _renamed_vae(name, levels)
        attention = ".mid.attn_1." in renamed and ".norm." not in renamed and renamed.endswith("weight")
        found[renamed] = tensor[:, :, None, None] if attention else tensor
    return found


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


def first_text_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first text encoder, which keeps transformers' names, in the layout with an inner `text_model`."""
    return {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in weights.items()
    }


def second_text_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The second text encoder under open_clip's names; queries, keys and values become one matrix."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        name = name.removeprefix("text_model.")
        if layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            number, inner, kind = layer.groups()
            if inner.endswith(("q_proj", "k_proj", "v_proj")):
                continue
            found[f"transformer.resblocks.{number}.{OPEN_CLIP[inner]}.{kind}"] = tensor
        elif name.startswith("final_layer_norm."):
            found[name.replace("final_layer_norm", "ln_final")] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif name.startswith("embeddings.token_embedding"):
            found["token_embedding.weight"] = tensor
        elif name.startswith("embeddings.position_embedding"):
            found["positional_embedding"] = tensor
    return found | _joined_attention(weights)


def _joined_attention(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name in weights:
        if layer := re.search(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[2]}"] = torch.cat(parts)
    return found

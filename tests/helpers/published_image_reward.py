"""ImageReward.pt of small sizes with the published names, and random numbers."""

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "two", "kite", "##s", "rain"]
SMALL_VISION = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
}  # fmt: skip
SMALL_TEXT = {
    "vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 24, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip


def published_names(vision: dict, text: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ImageReward.pt for these sizes, as BLIP's own code and the head define them."""
    d, m, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    count = (vision["image_size"] // patch) ** 2 + 1
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, count, d), "patch_embed.proj": (d, 3, patch, patch)}
    for layer in range(vision["num_hidden_layers"]):
        at = f"blocks.{layer}."
        shapes |= {f"{at}norm1": (d,), f"{at}norm2": (d,), f"{at}attn.qkv": (3 * d, d), f"{at}attn.proj": (d, d)}
        shapes |= {f"{at}mlp.fc1": (m, d), f"{at}mlp.fc2": (d, m)}
    shapes |= {"norm": (d,)}
    names = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    h, e, n = text["hidden_size"], text["encoder_hidden_size"], text["intermediate_size"]
    at = "blip.text_encoder.embeddings."
    names |= {f"{at}word_embeddings!": (text["vocab_size"], h)}
    names |= {f"{at}position_embeddings!": (text["max_position_embeddings"], h), f"{at}LayerNorm": (h,)}
    for layer in range(text["num_hidden_layers"]):
        at = f"blip.text_encoder.encoder.layer.{layer}."
        for kind, width in (("attention", h), ("crossattention", e)):
            names |= {f"{at}{kind}.self.query": (h, h), f"{at}{kind}.self.key": (h, width)}
            names |= {f"{at}{kind}.self.value": (h, width), f"{at}{kind}.output.dense": (h, h)}
            names |= {f"{at}{kind}.output.LayerNorm": (h,)}
        names |= {f"{at}intermediate.dense": (n, h), f"{at}output.dense": (h, n), f"{at}output.LayerNorm": (h,)}
    for number, shape in zip((0, 2, 4, 6, 7), ((1024, h), (128, 1024), (64, 128), (16, 64), (1, 16)), strict=True):
        names[f"mlp.layers.{number}"] = shape
    return names


def published_checkpoint(vision: dict, text: dict, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random weights under the published names; with what BLIP's pretraining used and the reward does not."""
    torch.manual_seed(0)
    tensors = {}
    for name, shape in published_names(vision, text).items():
        if name.endswith(("cls_token", "pos_embed", "!")):
            tensors[name.removesuffix("!") + (".weight" if name.endswith("!") else "")] = 0.3 * torch.randn(shape)
            continue
        tensors[f"{name}.weight"] = (1 if len(shape) == 1 else 0) + 0.2 * torch.randn(shape, device=device)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(shape[0], device=device)
    unused = {"blip.text_encoder.embeddings.position_ids": torch.arange(text["max_position_embeddings"])[None]}
    unused |= {"blip.vision_proj.weight": torch.zeros(4, vision["hidden_size"]), "blip.temp": torch.tensor(0.07)}
    return tensors | unused

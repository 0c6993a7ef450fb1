"""ImageReward: BLIP with a head that was trained on experts' rankings."""

from __future__ import annotations

import json
import re

import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from transformers import BertTokenizerFast
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from mapolab.errors import UserError
from mapolab.evaluation.scorers.aesthetic import aesthetic_head
from mapolab.evaluation.scorers.processor import load_judges_tokenizer
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity, make_fitting, weights_file, weights_folder
from mapolab.models.parts import LARGEST_NUMBER, read_config
from mapolab.models.readers import read_checkpoint
from mapolab.texts import brief

REPOSITORY, FILE = "zai-org/ImageReward", "ImageReward.pt"
# Mean and deviation of the rewards over the training set, from the published program.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
# BLIP's large picture encoder and BERT base with cross-attention. The original's layer norms use these epsilons.
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "encoder_hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}
RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
)


class Network(nn.Module):
    """Picture encoder, prompt encoder that attends to it, head."""

    def __init__(self, vision: dict, text: dict) -> None:
        super().__init__()
        self.vision = BlipVisionModel(read_config(BlipVisionConfig, vision))
        special = {"bos_token_id": None, "sep_token_id": None, "pad_token_id": 0}
        self.text = BlipTextModel(read_config(BlipTextConfig, text | special), add_pooling_layer=False)
        self.head = aesthetic_head(text["hidden_size"])

    def forward(self, pixels: torch.Tensor, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """pixels: (B, 3, 224, 224) -> (B,)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        ).last_hidden_state
        return self.head(read[:, 0].float()).squeeze(1)


class ImageReward(Scorer):
    """A standardised reward, about -2.5..2.5, 0 for the average picture of its training set.

    Xu et al. 2023 (2304.05977). Pictures are cut to their square centre, prompts after 35 tokens.
    weights: ImageReward.pt, a path; tokenizer: BERT's, a folder or a name on the hub; vision, text: sizes of the
    encoders where they are not the published ones.
    """

    name, kind, higher_is_better, minimum, maximum = "image_reward", "score", True, None, None
    description = "ImageReward: experts' preference for the picture given the prompt"
    source = "Xu et al. 2023, 2304.05977; zai-org/ImageReward"
    token_limit = TOKENS
    outside_fingerprint = ("weights", "tokenizer", "vision", "text")

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: str = "google-bert/bert-base-uncased",
        vision: dict | None = None,
        text: dict | None = None,
        device: str = "cpu",
    ) -> None:
        self.path = weights_file(self.name, weights, REPOSITORY, FILE)
        self.tokenizer_folder = weights_folder(self.name, tokenizer, "tokenizer")
        self.device = device
        vision, text = _sizes("vision", VISION, vision), _sizes("text", TEXT, text)
        self.sizes = {"vision": vision, "text": text}
        tensors = renamed(read_checkpoint(self.name, self.path))
        self.network = make_fitting(self.name, lambda: Network(vision, text), tensors, self.path)
        self.tokenizer = load_judges_tokenizer(self.name, BertTokenizerFast, self.tokenizer_folder, text["vocab_size"])
        self.network.eval().to(device)
        if device != "cpu":
            self.network.vision.half()
            self.network.text.half()
        self.preprocess = _preprocess(vision["image_size"])

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        rewards = self.network(pixels.to(self.device, self.network.vision.dtype), tokens.to(self.device))
        return ((rewards - MEAN) / DEVIATION).cpu()

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, verbose=False)["input_ids"])

    def weights_identity(self) -> list[str]:
        sizes = json.dumps(self.sizes, sort_keys=True)
        return [*identity(self.path, self.tokenizer_folder), sizes]


def _sizes(setting: str, published: dict, given: dict | None) -> dict:
    for key, value in (given or {}).items():
        if key not in published or type(value) not in (int, float) or not 0 <= value < LARGEST_NUMBER:
            raise UserError(
                f"The scorer image_reward was given {setting}: {brief(key)}={brief(value)}. Its sizes are numbers: "
                f"{', '.join(published)}."
            )
        if value == 0 and published[key]:
            raise UserError(f"The scorer image_reward was given {setting}: {key}=0. Give a number above 0.")
    return published | (given or {})


def _preprocess(size: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.Lambda(lambda picture: picture.convert("RGB")),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published checkpoint's tensors under transformers' names; what only BLIP's pretraining used is left out."""
    kept = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMED:
            if re.match(pattern, name):
                name = re.sub(pattern, replacement, name)
                if not name.endswith("position_ids"):
                    kept[name] = tensor
                break
    return kept

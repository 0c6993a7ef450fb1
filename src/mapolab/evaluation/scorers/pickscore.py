"""PickScore v1: how much people prefer a picture for a prompt, learned from Pick-a-Pic."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

from mapolab.errors import UserError
from mapolab.evaluation.scorers.processor import FILE, load_judges_tokenizer, load_processor
from mapolab.evaluation.scorers.scorer import Scorer
from mapolab.evaluation.scorers.weights import identity, load_whole, weights_folder


class PickScore(Scorer):
    """100 x cosine of CLIP ViT-H/14's picture and prompt embeddings: -100..100, SDXL's pictures about 22.

    Kirstain et al. 2023 (2305.01569). The published function returns exp(logit_scale) x cosine, the same up to a factor
    of about 1. Prompts are cut after 77 tokens.
    weights: a folder in transformers' layout or a name on the hub, `owner/name@commit`; processor: likewise, where
    tokenizer and picture sizes are read from.
    """

    name, kind, higher_is_better, minimum, maximum = "pickscore", "score", True, -100.0, 100.0
    description = "PickScore v1: human preference for the picture given the prompt"
    source = "Kirstain et al. 2023, 2305.01569; yuvalkirstain/PickScore_v1"
    outside_fingerprint = ("weights", "processor")

    def __init__(
        self,
        weights: str = "yuvalkirstain/PickScore_v1",
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        device: str = "cpu",
    ) -> None:
        self.folder = weights_folder("pickscore", weights)
        self.processor_folder = weights_folder("pickscore", processor, "processor")
        self.device = device
        self.dtype = torch.float16 if device != "cpu" else torch.float32
        self.image_processor = load_processor("pickscore", CLIPImageProcessorPil, self.processor_folder)
        self.model = load_whole("pickscore", CLIPModel, self.folder, self.dtype, _compute).to(device)
        text, vision = self.model.config.text_config, self.model.config.vision_config
        self.tokenizer = load_judges_tokenizer("pickscore", CLIPTokenizerFast, self.processor_folder, text.vocab_size)
        if self.image_processor.crop_size["height"] != vision.image_size:
            raise UserError(
                f"{self.processor_folder / FILE} makes pictures of {self.image_processor.crop_size['height']} px, but "
                f"{self.folder} reads {vision.image_size} px. They do not belong together; download both again."
            )
        self.token_limit = text.max_position_embeddings

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image], prompts: list[str]) -> torch.Tensor:
        pixels = self.image_processor(pictures, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.token_limit, return_tensors="pt"
        ).to(self.device)
        seen = self.model.get_image_features(pixel_values=pixels).pooler_output.float()
        read = self.model.get_text_features(**tokens).pooler_output.float()
        return 100 * torch.nn.functional.cosine_similarity(seen, read).cpu()

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, verbose=False)["input_ids"])

    def weights_identity(self) -> list[str]:
        return identity(self.folder, self.processor_folder)


def _compute(model: CLIPModel) -> None:
    side, length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    model.get_image_features(pixel_values=torch.empty(1, 3, side, side))
    model.get_text_features(input_ids=torch.zeros(1, length, dtype=torch.long))

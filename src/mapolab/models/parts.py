"""The parts of a pipeline: how each is built from its config, which files it is read from and how they name things."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mapolab.errors import UserError
from mapolab.models.weights import Place

MODELS: dict[str, type[nn.Module]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
TOKENIZERS = ("tokenizer", "tokenizer_2")
# What transformers reads of a tokenizer: one of the two sources, and beside it what is there of the rest.
TOKENIZER_SOURCES = ("tokenizer.json",), ("vocab.json", "merges.txt")
TOKENIZER_REST = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
# In files of text encoders, and needed by none of SDXL's: older versions of transformers wrote the counted positions
# into the file; the first encoder's projection and CLIP's temperature are not used.
NEEDLESS_TEXT = re.compile(r"(text_model\.)?embeddings\.position_ids|logit_scale|text_projection(\.weight)?")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build(kind: type[nn.Module], config: dict[str, Any], where: str) -> nn.Module:
    """The model of this config, its weights on the meta device. where: for the message.

    Raises UserError for a config of another class, of quantised weights, or of no model at all.
    """
    if (name := config.get("_class_name", kind.__name__)) != kind.__name__:
        raise UserError(f"The {where} has the class {name}, but SDXL's is {kind.__name__}. Give an SDXL model's.")
    for key in ("quantization_config", "transformers_weights"):
        if config.get(key):
            raise UserError(f"The config of the {where} has {key}, which mapolab cannot read. Give plain weights.")
    try:
        if issubclass(kind, ModelMixin):
            with torch.device("meta"):
                return kind.from_config(config).eval()
        with init_empty_weights(include_buffers=False):  # positions are counted, not read
            return kind(CLIPTextConfig(**config)).eval()
    except Exception as error:  # whatever the two libraries raise for values that make no model
        raise UserError(
            f"The config of the {where} describes no {kind.__name__} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Check its config.json."
        ) from None


def own_place(model: nn.Module) -> Place:
    """Where the tensors of a diffusers folder belong, whatever version of the libraries wrote it."""
    return _diffusers_place(model) if isinstance(model, ModelMixin) else _text_place(model)


def _diffusers_place(model: nn.Module) -> Place:
    names = set(model.state_dict())
    renamed = {
        f"{path}.{old}.{kind}": f"{path}.{new}.{kind}"
        for path, module in model.named_modules()
        if getattr(module, "_from_deprecated_attn_block", False)
        for old, new in OLD_ATTENTION.items()
        for kind in ("weight", "bias")
    }

    def place(key: str, tensor: Tensor) -> list[tuple[str, Tensor]] | None:
        name = renamed.get(key, key)
        return [(name, tensor)] if name in names else None

    return place


def _text_place(model: nn.Module) -> Place:
    """transformers had all of the first encoder under `text_model.` before 5.6."""
    names = {name.removeprefix("text_model."): name for name in model.state_dict()}

    def place(key: str, tensor: Tensor) -> list[tuple[str, Tensor]] | None:
        name = names.get(key.removeprefix("text_model."))
        if name is None:
            return [] if NEEDLESS_TEXT.fullmatch(key) else None
        return [(name, tensor)]

    return place


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that a tokenizer is read from. Raises UserError where its vocabulary is not among them: transformers
    would make one of two words."""
    whole = (names for names in TOKENIZER_SOURCES if all((folder / name).is_file() for name in names))
    source = next(whole, None)
    if source is None:
        raise UserError(f"{folder} holds no vocabulary: neither tokenizer.json, nor vocab.json with merges.txt.")
    return sorted(folder / name for name in (*source, *TOKENIZER_REST) if (folder / name).is_file())


def load_tokenizer(files: Sequence[Path]) -> CLIPTokenizer:
    """A tokenizer from these files alone. Raises UserError where they make none."""
    with TemporaryDirectory() as folder:
        for file in files:
            Path(folder, file.name).symlink_to(file.resolve())
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        except Exception as error:  # of json, tokenizers and transformers
            raise UserError(
                f"The tokenizer in {files[0].parent} cannot be read ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). Fetch its files again."
            ) from None
    tokenizer.name_or_path = str(files[0].parent)
    return tokenizer

"""The parts of a pipeline: how each is built from its config, which files it is read from and how they name things."""

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from mapolab.errors import UserError
from mapolab.models.readers import read_settings
from mapolab.models.weights import Place
from mapolab.texts import brief

Config = TypeVar("Config", bound=PreTrainedConfig)
Tokenizer = TypeVar("Tokenizer", bound=PreTrainedTokenizerBase)

MODELS: dict[str, type[nn.Module]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
TOKENIZERS = ("tokenizer", "tokenizer_2")
# What transformers reads of a tokenizer: one of the sources, and beside it what is there of the rest.
TOKENIZER_SOURCES = ("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",)
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_REST = ("added_tokens.json", "special_tokens_map.json", TOKENIZER_CONFIG)
# The settings in tokenizer_config.json that say how prompts become ids. Others name classes, code, templates and files.
TOKENIZER_SETTINGS = (
    "model_max_length", "padding_side", "truncation_side", "bos_token", "eos_token", "unk_token", "pad_token",
    "cls_token", "sep_token", "mask_token", "additional_special_tokens", "extra_special_tokens", "added_tokens_decoder",
    "do_lower_case", "tokenize_chinese_chars", "strip_accents", "clean_up_tokenization_spaces",
)  # fmt: skip
# Of layers, what holds them, and their weights: SDXL's UNet has 3,609. A config may ask for any number of layers.
MOST_MODULES = 20_000
LARGEST_NUMBER = 1e9
# In files of text encoders, and needed by none of SDXL's: older versions of transformers wrote the counted positions
# into the file; the first encoder's projection and CLIP's temperature are not used.
NEEDLESS_TEXT = re.compile(r"(text_model\.)?embeddings\.position_ids|logit_scale|text_projection(\.weight)?")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def build(kind: type[nn.Module], config: dict[str, Any], where: str) -> nn.Module:
    """The model of this config on the meta device, so that no config asks for memory: `weights.fill` gives it what the
    files hold, if that fits. where: for the message.

    Raises UserError for a config of another class, of quantised weights, or of no model at all.
    """
    if (name := config.get("_class_name", kind.__name__)) != kind.__name__:
        raise UserError(f"The {where} has the class {name}, but SDXL's is {kind.__name__}. Give an SDXL model's.")
    for key in ("quantization_config", "transformers_weights"):
        if config.get(key):
            raise UserError(f"The config of the {where} has {key}, which mapolab cannot read. Give plain weights.")
    try:
        with torch.device("meta"), few_modules():
            if issubclass(kind, ModelMixin):
                return kind.from_config(_settings(kind, config)).eval()
            return kind(read_config(kind.config_class, config)).eval()
    except Exception as error:  # whatever the two libraries raise for values that make no model
        raise _no_model(kind, where, error) from None


def _settings(kind: type[nn.Module], config: dict[str, Any]) -> dict[str, Any]:
    """What of a config of diffusers says how the model is built; the rest would be printed, whatever it is.

    Raises ValueError for a setting of another type than its default: "no" would be true. Where the default is a whole
    number, some take a list with one for each block.
    """
    parameters = inspect.signature(kind.__init__).parameters
    for key, one in parameters.items():
        value, default = config.get(key, one.default), one.default
        number = type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER
        several = isinstance(default, int) and (value is None or isinstance(value, list | tuple))
        if (isinstance(default, bool) and not isinstance(value, bool)) or (
            type(default) in (int, float) and not number and not several
        ):
            raise ValueError(f"{key} is {brief(repr(value))}, where {default!r} is usual")
    own = {key: value for key, value in config.items() if key in parameters}
    return own | {key: config[key] for key in ("_class_name", "_diffusers_version") if key in config}


def read_config(kind: type[Config], values: dict[str, Any]) -> Config:
    """A config of transformers from a config.json: what says how the model is built, and nothing else.

    The rest could have kernels of attention fetched from the hub and run, or other outputs returned.
    """
    own = {
        key
        for base in kind.__mro__
        if issubclass(base, PreTrainedConfig) and base is not PreTrainedConfig
        for key in vars(base).get("__annotations__", {})
    }
    found = {key: value for key, value in values.items() if key in own and key not in kind.sub_configs}
    for key, value in found.items():
        most = MOST_MODULES if key.startswith("num_") else LARGEST_NUMBER
        if isinstance(value, int | float) and not -most < value < most:
            raise ValueError(f"{key} is {brief(value)}")
    for key, inner in kind.sub_configs.items():  # `text_config_dict` stood in earlier files, and counted
        found[key] = read_config(inner, values.get(f"{key}_dict") or values.get(key) or {})
    return kind(**found)


@contextlib.contextmanager
def few_modules() -> Iterator[None]:
    """Within the block, raise ValueError where a model of more layers is made than any has."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"it asks for more than {MOST_MODULES} layers")

    hooks = register_module_module_registration_hook, register_module_parameter_registration_hook
    handles = [register(note) for register in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def try_out(model: nn.Module, where: str, compute: Callable[[Any], Any] | None = None) -> None:
    """Compute once on the meta device, by shapes alone: some values of a config only show there that they are wrong.

    model: of `build`. compute: where it is none of SDXL's parts. Raises UserError where it cannot compute.
    """
    try:
        with torch.device("meta"):
            (compute or _compute)(model)
    except Exception as error:  # of any layer
        raise _no_model(type(model), where, error) from None


def _compute(model: nn.Module) -> None:
    config = model.config
    if isinstance(model, AutoencoderKL):
        pixels = torch.empty(1, 3, side := 8 << len(config.block_out_channels), side)
        found, wanted = model.decode(model.encode(pixels).latent_dist.mean).sample.shape, pixels.shape
    elif isinstance(model, UNet2DConditionModel):
        latents = torch.empty(1, config.in_channels, side := 2 << len(config.block_out_channels), side)
        pooled = (config.projection_class_embeddings_input_dim or 0) - 6 * (config.addition_time_embed_dim or 0)
        added = {"text_embeds": torch.empty(1, max(pooled, 0)), "time_ids": torch.empty(1, 6)}
        prompt = torch.empty(1, 77, config.cross_attention_dim)
        found, wanted = model(latents, torch.tensor(1), prompt, added_cond_kwargs=added).sample.shape, latents.shape
    else:
        ids = torch.zeros(1, config.max_position_embeddings, dtype=torch.long)
        found = model(ids, output_hidden_states=True).hidden_states[-2].shape
        wanted = (*ids.shape, config.hidden_size)
    if found != wanted:
        raise ValueError(f"it gives {tuple(found)} for {tuple(wanted)}")


def _no_model(kind: type[nn.Module], where: str, error: Exception) -> UserError:
    return UserError(
        f"The config of the {where} describes no {kind.__name__} ({type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}). Check its config.json."
    )


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


def load_tokenizer(files: Sequence[Path], kind: type[Tokenizer] = CLIPTokenizer) -> Tokenizer:
    """A tokenizer from these files alone, of which the words and the settings above count. How it takes a prompt apart
    is its class's own, whatever tokenizer.json says. Raises UserError where they make none."""
    with TemporaryDirectory() as folder:
        try:
            for file in files:
                if file.name == TOKENIZER_CONFIG:
                    settings = read_settings(file)
                    kept = {key: settings[key] for key in TOKENIZER_SETTINGS if key in settings}
                    Path(folder, file.name).write_text(json.dumps(kept))
                else:
                    Path(folder, file.name).symlink_to(file.resolve())
            tokenizer = kind.from_pretrained(folder)
        except UserError:
            raise
        except Exception as error:  # of json, tokenizers and transformers
            raise UserError(
                f"The tokenizer in {files[0].parent} cannot be read ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}). Fetch its files again."
            ) from None
    words = tokenizer.get_vocab()
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token"):
        # None where the class has no such word; but CLIP and BERT both fill prompts up.
        if (word := getattr(tokenizer, name)) not in words and (word is not None or name == "pad_token"):
            raise UserError(
                f"The tokenizer in {files[0].parent} has {name}={brief(repr(word))}, which is no word of its "
                f"vocabulary. Check its {TOKENIZER_CONFIG} and special_tokens_map.json."
            )
    tokenizer.name_or_path = str(files[0].parent)
    return tokenizer
